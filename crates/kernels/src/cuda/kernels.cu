// All device code, compiled as one module: each op's file lies beside its code for the CPU.
#include "common.cuh"

#include "../spd/eigen.cu"
#include "../spd/function.cu"
#include "../spd/distance.cu"
#include "../spd/covariance.cu"
#include "../transport/sinkhorn.cu"
#include "../transport/graph.cu"
#include "../cotap/cotap.cu"
