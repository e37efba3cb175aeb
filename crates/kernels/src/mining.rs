//! The hardest negatives among rows.

use candle_core::Tensor;

use crate::{Error, Result, host};

const OP: &str = "hardest_negatives";

/// For each row of `anchor` `[n, d]` the nearest row of `positive` `[n, d]` with another label, by float64 distances; the
/// lower index among equals; `None` where all labels are the same. Where the rows lie on a card, they are compared there.
///
/// # Errors
/// Shapes or dtypes that do not fit, a number of labels other than `n`.
pub fn hardest_negatives(anchor: &Tensor, positive: &Tensor, labels: &[u32]) -> Result<Vec<Option<usize>>> {
    let &[n, d] = anchor.dims() else {
        return Err(Error::Shape { op: OP, name: "anchor", got: anchor.dims().to_vec(), expected: "[n, d]".into() });
    };
    if positive.dims() != [n, d] {
        let expected = format!("[{n}, {d}], as `anchor`");
        return Err(Error::Shape { op: OP, name: "positive", got: positive.dims().to_vec(), expected });
    }
    if labels.len() != n {
        return Err(Error::Shape { op: OP, name: "labels", got: vec![labels.len()], expected: format!("{n} labels") });
    }
    #[cfg(feature = "cuda")]
    if anchor.device().is_cuda() {
        return crate::cuda::tensors::nearest_rows(OP, anchor, positive, labels);
    }
    let (a, p) = (host::to_f64(OP, anchor)?, host::to_f64(OP, positive)?);
    let squared = |i: usize, j: usize| -> f64 {
        a[i * d..(i + 1) * d].iter().zip(&p[j * d..(j + 1) * d]).map(|(x, y)| (x - y) * (x - y)).sum()
    };
    let nearest = |i: usize| {
        let others = (0..n).filter(|&j| labels[j] != labels[i]).map(|j| (squared(i, j), j));
        others.min_by(|x, y| x.0.total_cmp(&y.0)).map(|(_, j)| j)
    };
    Ok((0..n).map(nearest).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn the_nearest_row_of_another_label_and_the_lower_of_equals() {
        let rows = |values: &[f32]| Tensor::from_slice(values, (values.len(), 1), &Device::Cpu).unwrap();
        let (anchor, positive) = (rows(&[0.0, 1.0, 2.0, 9.0]), rows(&[0.0, 1.0, 1.0, 3.0]));
        let found = hardest_negatives(&anchor, &positive, &[0, 1, 1, 0]).unwrap();
        assert_eq!(found, [Some(1), Some(0), Some(3), Some(1)]);
        assert_eq!(hardest_negatives(&anchor, &positive, &[7; 4]).unwrap(), [None; 4]);
        assert!(matches!(hardest_negatives(&anchor, &positive, &[7; 3]), Err(Error::Shape { name: "labels", .. })));
        let short = rows(&[0.0]);
        assert!(matches!(hardest_negatives(&anchor, &short, &[7; 4]), Err(Error::Shape { name: "positive", .. })));
    }
}
