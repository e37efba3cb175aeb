//! Inner products of the rows of matrices.

use candle_core::{CpuStorage, CustomOp2, Layout, Shape, Tensor, WithDType};

use super::buffers::{Real, by_storage, check_activations, fresh, slice_of};
use super::gradient::{Derivative, Gradient, Gradients, on_tensors};
use super::product::{Strides, product_into, product_on_threads, rows, transposed};
use crate::{Error, Result};

const OP: &str = "inner_products";

/// `y[p,i,j] = Σ_d a[p,i,d] · b[p,j,d]`: `a` [P, N, D] and `b` [P, M, D] give [P, N, M].
///
/// Differentiable in both; gradients that nobody tracks are not computed. On the CPU values and gradients are the same bits for
/// any number of threads and of any processor with AVX2; on a card it is a matrix product of candle's.
///
/// # Errors
/// [`Error::Shape`], [`Error::Dtype`].
pub fn inner_products(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_activations(OP, a)?;
    let shape = |name, tensor: &Tensor, expected| Error::Shape { op: OP, name, got: tensor.dims().to_vec(), expected };
    let &[count, n, depth] = a.dims() else { return Err(shape("a", a, "[P, N, D]".into())) };
    if a.elem_count() == 0 {
        return Err(shape("a", a, "[P, N, D], not empty".into()));
    }
    let m = match *b.dims() {
        [p, m, d] if (p, d) == (count, depth) && m > 0 => m,
        _ => return Err(shape("b", b, format!("[{count}, M, {depth}], not empty"))),
    };
    if b.dtype() != a.dtype() {
        return Err(Error::Dtype { op: OP, got: b.dtype() });
    }
    if !a.device().is_cpu() {
        return Ok(a.matmul(&b.transpose(1, 2)?)?);
    }
    Ok(a.contiguous()?.apply_op2(&b.contiguous()?, InnerProducts { count, n, m, depth })?)
}

#[derive(Clone, Copy)]
struct InnerProducts {
    count: usize,
    n: usize,
    m: usize,
    depth: usize,
}

impl InnerProducts {
    /// `lhs · rhs` of each pair of matrices, the results `rows` × `columns`.
    fn products<T: Real>(
        &self,
        (rows, columns, depth): (usize, usize, usize),
        (lhs, left): (&[T], Strides),
        (rhs, right): (&[T], Strides),
    ) -> Vec<T> {
        if self.count == 1 {
            return product_on_threads((rows, columns, depth), (lhs, left), (rhs, right), None);
        }
        // SAFETY: a product writes all of its result.
        unsafe {
            fresh(self.count * rows * columns, (rows * columns, 1), |p, y| {
                let (lhs, rhs) = (&lhs[p * rows * depth..], &rhs[p * depth * columns..]);
                product_into((rows, columns, depth), (y, columns), (lhs, left), (rhs, right));
            })
        }
    }
}

impl Derivative for InnerProducts {
    fn gradients<T: Real>(&self, args: [&[T]; 3], _: &[T], gy: Gradient<T>, want: [bool; 3]) -> Gradients<T> {
        let ([a, b, _], &Self { n, m, depth, .. }) = (args, self);
        let ga = || self.products((n, depth, m), (&gy, rows(m)), (b, rows(depth)));
        let gb = || self.products((m, depth, n), (&gy, transposed(m)), (a, rows(depth)));
        [want[0].then(ga), want[1].then(gb), None].map(|g| g.map(Gradient::Alone))
    }
}

impl CustomOp2 for InnerProducts {
    fn name(&self) -> &'static str {
        OP
    }

    fn cpu_fwd(
        &self,
        a: &CpuStorage,
        la: &Layout,
        b: &CpuStorage,
        lb: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let &Self { count, n, m, depth } = self;
        let y = by_storage!(a, T => {
            let (a, b) = (slice_of::<T>(a, la)?, slice_of::<T>(b, lb)?);
            Ok(T::to_cpu_storage_owned(self.products((n, m, depth), (a, rows(depth)), (b, transposed(depth)))))
        })?;
        Ok((y, Shape::from((count, n, m))))
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        y: &Tensor,
        gy: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>)> {
        on_tensors(self, &[a, b], y, gy).map(|[ga, gb, _]| (ga, gb))
    }
}
