//! Choices among algorithms, against an engine that only pretends.

use super::super::device::{Bf16, Stored};
use super::super::train::conv::{Conv, Pass};
use super::plan::{Choice, Math, Offer, Precision, Problem, WORKSPACE, allowed};
use super::plans::{Engine, Plans, Refusal, smaller};
use super::{error, settled};
use crate::Error;
use crate::nn::{Conv2dConfig, ConvLibrary};

const PASSES: [Pass; 3] = [Pass::Forward, Pass::BackwardData, Pass::BackwardFilter];

fn conv(batch: usize, library: ConvLibrary) -> Conv {
    let config = Conv2dConfig { stride: 2, padding: 3, groups: 2, library, ..Conv2dConfig::default() };
    Conv { batch, c_in: 4, height: 17, width: 13, c_out: 6, kh: 7, kw: 5, oh: 9, ow: 8, config }
}

fn problem<T: Stored>(pass: Pass, library: ConvLibrary) -> Problem {
    Problem::new::<T>(pass, &conv(2, library))
}

fn offer(algorithm: u32, math: Math) -> Offer {
    Offer { algorithm, math, works: true, deterministic: true }
}

fn choice(algorithm: u32, math: Math) -> Choice {
    Choice { algorithm, math }
}

#[test]
fn a_problem_is_its_sizes_and_types() {
    let one = problem::<f32>(Pass::Forward, ConvLibrary::Automatic);
    assert_eq!((one.x, one.w, one.y), ([2, 4, 17, 13], [6, 2, 7, 5], [9, 8]));
    assert_eq!((one.stride, one.padding, one.dilation, one.groups), (2, 3, 1, 2));
    // Asking for cuDNN changes nothing about how it computes; asking for speed does.
    assert_eq!(one, problem::<f32>(Pass::Forward, ConvLibrary::Cudnn));
    let others = [
        problem::<f32>(Pass::Forward, ConvLibrary::CudnnFast),
        problem::<f64>(Pass::Forward, ConvLibrary::Automatic),
        problem::<Bf16>(Pass::Forward, ConvLibrary::Automatic),
        problem::<f32>(Pass::BackwardData, ConvLibrary::Automatic),
        Problem::new::<f32>(Pass::Forward, &conv(3, ConvLibrary::Automatic)),
    ];
    assert!(others.iter().all(|other| *other != one));
    let precisions = [others[0], others[1], others[2]].map(|other| other.precision);
    assert_eq!(precisions, [Precision::Single, Precision::Double, Precision::Half]);
}

#[test]
fn atomic_sums_and_transforms_are_left_to_speed() {
    // What cuDNN calls deterministic, and what it does not, in its order.
    let offers = |count: u32| -> Vec<Offer> { (0..count).rev().map(|number| offer(number, Math::Fma)).collect() };
    let numbers = |pass, library, offers: &[Offer]| -> Vec<u32> {
        allowed(&problem::<f32>(pass, library), offers).iter().map(|choice| choice.algorithm).collect()
    };
    let [forward, data, filter] = [8, 6, 7].map(offers);
    assert_eq!(numbers(Pass::Forward, ConvLibrary::Cudnn, &forward), [3, 2, 1, 0]);
    assert_eq!(numbers(Pass::BackwardData, ConvLibrary::Cudnn, &data), [1]);
    assert_eq!(numbers(Pass::BackwardFilter, ConvLibrary::Cudnn, &filter), [1]);
    // In a hurry, everything that works, in cuDNN's order. The first list is followed by the usual ones in default math.
    assert_eq!(numbers(Pass::Forward, ConvLibrary::CudnnFast, &forward), [7, 6, 5, 4, 3, 2, 1, 0, 1, 0, 2, 3]);
    // What says of itself that it is not repeatable, or does not work, is believed.
    let mut doubtful = vec![offer(0, Math::Fma), offer(3, Math::Fma)];
    (doubtful[0].deterministic, doubtful[1].works) = (false, false);
    let chosen = allowed(&problem::<f32>(Pass::Forward, ConvLibrary::Cudnn), &doubtful);
    assert_eq!(chosen, allowed(&problem::<f32>(Pass::Forward, ConvLibrary::Cudnn), &[]));
    assert_eq!(chosen[0], choice(1, Math::Fma));
}

#[test]
fn float32_stays_float32() {
    use Math::{Convert, Default, Fma, Tensor};
    let offers = [offer(1, Tensor), offer(1, Convert), offer(0, Default), offer(1, Fma)];
    let firsts = |problem: Problem, count: usize| allowed(&problem, &offers)[..count].to_vec();
    let single = problem::<f32>(Pass::Forward, ConvLibrary::Cudnn);
    assert_eq!(firsts(single, 2), [choice(0, Fma), choice(1, Fma)]);
    assert!(allowed(&single, &offers).iter().all(|choice| choice.math == Fma));
    let double = problem::<f64>(Pass::Forward, ConvLibrary::CudnnFast);
    assert!(allowed(&double, &offers).iter().all(|choice| choice.math == Default));
    // TF32 where it was asked for, never narrower types.
    let fast = problem::<f32>(Pass::Forward, ConvLibrary::CudnnFast);
    assert_eq!(firsts(fast, 3), [choice(1, Tensor), choice(0, Default), choice(1, Fma)]);
    let half = problem::<Bf16>(Pass::Forward, ConvLibrary::Cudnn);
    assert_eq!(firsts(half, 2), [choice(1, Tensor), choice(1, Convert)]);
    let maths = [single, double, fast, half].map(|problem| problem.math());
    assert_eq!(maths, [Fma, Default, Default, Tensor]);
    assert_eq!([0, 1, 2, 3].map(Math::numbered), [Some(Default), Some(Tensor), Some(Convert), Some(Fma)]);
    assert_eq!(Math::numbered(4), None);
}

/// An engine with algorithms of given sizes of workspace, some of which do not support the problem.
struct Pretender {
    /// Number, workspace, and whether it runs.
    algorithms: Vec<(u32, usize, bool)>,
    /// Bytes that the card has left.
    memory: usize,
    asked: usize,
    started: Vec<u32>,
}

impl Engine for Pretender {
    type Room = usize;

    fn offers(&mut self, _: &Problem) -> Result<Vec<Offer>, Refusal> {
        self.asked += 1;
        Ok(self.algorithms.iter().map(|&(number, _, _)| offer(number, Math::Fma)).collect())
    }

    fn bytes(&mut self, _: &Problem, choice: Choice) -> Result<usize, Refusal> {
        let found = self.algorithms.iter().find(|(number, _, _)| *number == choice.algorithm);
        found.map(|(_, bytes, _)| *bytes).ok_or(Refusal::Unsupported)
    }

    fn room(&mut self, bytes: usize) -> Result<usize, Refusal> {
        if bytes <= self.memory { Ok(bytes) } else { Err(Refusal::Memory(format!("no {bytes} bytes"))) }
    }

    fn start(
        &mut self,
        _: &Problem,
        choice: Choice,
        (room, bytes): (&usize, usize),
        _: [u64; 3],
    ) -> Result<(), Refusal> {
        assert_eq!(*room, bytes);
        let runs = self.algorithms.iter().any(|&(number, _, runs)| number == choice.algorithm && runs);
        self.started.push(choice.algorithm);
        if runs { Ok(()) } else { Err(Refusal::Unsupported) }
    }
}

fn pretender(algorithms: &[(u32, usize, bool)], memory: usize) -> Pretender {
    Pretender { algorithms: algorithms.to_vec(), memory, asked: 0, started: Vec::new() }
}

#[test]
fn a_problem_is_planned_once() {
    let mut engine = pretender(&[(2, 500, true), (0, 0, true)], 1000);
    let mut plans = Plans::default();
    for pass in [Pass::Forward; 3] {
        let done = plans.run(&mut engine, &problem::<f32>(pass, ConvLibrary::Automatic), [1, 2, 3]);
        assert_eq!(done, Ok(choice(2, Math::Fma)));
    }
    assert_eq!((engine.asked, engine.started.as_slice()), (1, &[2, 2, 2][..]));
    plans.run(&mut engine, &problem::<f64>(Pass::Forward, ConvLibrary::Automatic), [1, 2, 3]).unwrap();
    assert_eq!(engine.asked, 2);
}

#[test]
fn what_does_not_run_is_tried_once() {
    let mut engine = pretender(&[(3, 8, false), (2, WORKSPACE + 1, true), (0, 16, true)], usize::MAX);
    let mut plans = Plans::default();
    let one = problem::<f32>(Pass::Forward, ConvLibrary::Automatic);
    for _ in 0..2 {
        assert_eq!(plans.run(&mut engine, &one, [0; 3]), Ok(choice(0, Math::Fma)));
    }
    assert_eq!(engine.started, [3, 0, 0]);
    let mut none = pretender(&[(3, 8, false)], usize::MAX);
    for _ in 0..2 {
        assert_eq!(Plans::default().run(&mut none, &one, [0; 3]), Err(Refusal::Unsupported));
    }
}

#[test]
fn memory_that_runs_out_leaves_a_smaller_algorithm_and_a_note() {
    let before = smaller();
    let mut engine = pretender(&[(3, 900, true), (2, 950, true), (1, 100, true), (0, 0, true)], 1000);
    let mut plans = Plans::default();
    let one = problem::<f32>(Pass::Forward, ConvLibrary::Automatic);
    assert_eq!(plans.run(&mut engine, &one, [0; 3]), Ok(choice(3, Math::Fma)));
    engine.memory = 200;
    assert_eq!(plans.run(&mut engine, &one, [0; 3]), Ok(choice(1, Math::Fma)));
    assert_eq!(smaller(), before + 1);
    // The rest of the run keeps to it, so that it depends on that one moment alone.
    engine.memory = 1000;
    assert_eq!(plans.run(&mut engine, &one, [0; 3]), Ok(choice(1, Math::Fma)));
    let mut large = pretender(&[(3, 900, true), (2, 950, true)], 10);
    let refused = Plans::default().run(&mut large, &one, [0; 3]);
    assert_eq!(refused, Err(Refusal::Memory("no 900 bytes".into())));
    assert_eq!((smaller(), large.started.len()), (before + 1, 0));
}

#[test]
fn a_library_that_is_not_there() {
    let missing = || Err(Refusal::Missing("libcudnn.so.9 is not on this machine".into()));
    assert!(!settled("conv2d", false, missing()).unwrap());
    assert!(!settled("conv2d", false, Err(Refusal::Unsupported)).unwrap());
    assert!(settled("conv2d", true, Ok(())).unwrap());
    let said = settled("conv2d", true, missing()).unwrap_err();
    assert!(matches!(said, Error::Library { op: "conv2d", library: "cuDNN", .. }));
    assert_eq!(
        said.to_string(),
        "conv2d: cuDNN was asked for and cannot be used: libcudnn.so.9 is not on this machine. Install cuDNN 9 \
         (libcudnn.so.9 and the libraries beside it) where the loader finds it, or ask for ConvLibrary::Own, or build without \
         the feature `cudnn`"
    );
    let said = settled("conv2d", true, Err(Refusal::Unsupported)).unwrap_err().to_string();
    assert!(said.contains("no algorithm of the kind that was asked for"), "{said}");
    // What went wrong is never left to other kernels.
    for insists in [false, true] {
        let said = settled("conv2d", insists, Err(Refusal::Failed("CUDNN_STATUS_EXECUTION_FAILED".into())));
        assert_eq!(said.unwrap_err().to_string(), "conv2d: cuDNN: CUDNN_STATUS_EXECUTION_FAILED");
    }
    let said = error("conv2d", Refusal::Memory("CUDA_ERROR_OUT_OF_MEMORY".into())).to_string();
    assert_eq!(said, "conv2d: cuDNN's workspace: CUDA_ERROR_OUT_OF_MEMORY");
}

#[test]
fn every_pass_has_a_usual_algorithm() {
    for pass in PASSES {
        let usual = allowed(&problem::<Bf16>(pass, ConvLibrary::Automatic), &[]);
        assert_eq!(usual[0], choice(1, Math::Tensor), "{pass:?}");
    }
}
