//! Matching the rows of a cost matrix to its columns. Plain numbers, no gradient.

/// The one-to-one assignment of least total cost: the column of each row. Exact, O(n³).
///
/// Shortest augmenting paths on reduced costs (Jonker and Volgenant, *A shortest augmenting path algorithm for dense
/// and sparse linear assignment problems*, Computing 38, 1987, section 4).
///
/// # Panics
/// If `cost` is not `n`×`n` (row-major), or not finite.
pub fn hungarian(cost: &[f64], n: usize) -> Vec<usize> {
    check(cost, n);
    let mut matching = Matching { row_of: vec![None; n], rows: vec![0.0; n], columns: vec![0.0; n] };
    for row in 0..n {
        matching.augment(cost, row);
    }
    let mut out = vec![0; n];
    for (column, row) in matching.row_of.iter().enumerate() {
        if let Some(row) = row {
            out[*row] = column;
        }
    }
    out
}

/// A partial matching with dual variables: `cost[i][j] − rows[i] − columns[j] ≥ 0`, and 0 on matched pairs.
struct Matching {
    row_of: Vec<Option<usize>>,
    rows: Vec<f64>,
    columns: Vec<f64>,
}

impl Matching {
    /// Matches `start` along a shortest augmenting path (Dijkstra over the reduced costs).
    fn augment(&mut self, cost: &[f64], start: usize) {
        let n = self.rows.len();
        let mut length = vec![f64::INFINITY; n];
        let mut from = vec![start; n];
        let mut scanned: Vec<usize> = Vec::with_capacity(n);
        let mut done = vec![false; n];
        let (mut row, mut base) = (start, 0.0);
        let end = loop {
            let mut nearest = None;
            for j in (0..n).filter(|&j| !done[j]) {
                let through = base + (cost[row * n + j] - self.rows[row] - self.columns[j]);
                if through < length[j] {
                    length[j] = through;
                    from[j] = row;
                }
                if nearest.is_none_or(|k: usize| length[j] < length[k]) {
                    nearest = Some(j);
                }
            }
            let Some(column) = nearest else { unreachable!("fewer rows are matched than there are columns") };
            base = length[column];
            done[column] = true;
            match self.row_of[column] {
                None => break column,
                Some(next) => {
                    scanned.push(column);
                    row = next;
                }
            }
        };
        self.rows[start] += base;
        for &column in &scanned {
            let slack = base - length[column];
            self.columns[column] -= slack;
            if let Some(matched) = self.row_of[column] {
                self.rows[matched] += slack;
            }
        }
        self.flip(start, end, &from);
    }

    /// Exchanges matched and unmatched pairs along the path that ends in the free column `column`.
    fn flip(&mut self, start: usize, mut column: usize, from: &[usize]) {
        loop {
            let row = from[column];
            let before = self.row_of.iter().position(|&r| r == Some(row));
            self.row_of[column] = Some(row);
            match before {
                Some(next) if row != start => column = next,
                _ => return,
            }
        }
    }
}

/// The nearest column of each row, the lower index of equally near ones. Columns may repeat.
///
/// # Panics
/// If `cost` is not `n`×`n` (row-major), or not finite.
pub fn nearest(cost: &[f64], n: usize) -> Vec<usize> {
    check(cost, n);
    (0..n).map(|i| first_least((0..n).map(|j| cost[i * n + j]))).collect()
}

/// One-to-one: pairs that are each other's nearest first, then the rest by growing cost (equal costs: the lower row,
/// then the lower column first). The column of each row.
///
/// # Panics
/// If `cost` is not `n`×`n` (row-major), or not finite.
pub fn mutual(cost: &[f64], n: usize) -> Vec<usize> {
    let of_rows = nearest(cost, n);
    let of_columns: Vec<usize> = (0..n).map(|j| first_least((0..n).map(|i| cost[i * n + j]))).collect();
    let mut column_of: Vec<Option<usize>> =
        of_rows.iter().enumerate().map(|(i, &j)| (of_columns[j] == i).then_some(j)).collect();
    let mut taken = vec![false; n];
    column_of.iter().flatten().for_each(|&j| taken[j] = true);
    let mut rest: Vec<usize> = (0..n * n).filter(|k| column_of[k / n].is_none() && !taken[k % n]).collect();
    // A stable sort: equal costs stay in row-major order. Adding 0 makes one zero of the two.
    rest.sort_by(|&x, &y| (cost[x] + 0.0).total_cmp(&(cost[y] + 0.0)));
    for k in rest {
        let (i, j) = (k / n, k % n);
        if column_of[i].is_none() && !taken[j] {
            column_of[i] = Some(j);
            taken[j] = true;
        }
    }
    column_of.into_iter().flatten().collect()
}

fn first_least(values: impl Iterator<Item = f64>) -> usize {
    values.enumerate().fold((0, f64::INFINITY), |best, (i, v)| if v < best.1 { (i, v) } else { best }).0
}

fn check(cost: &[f64], n: usize) {
    assert_eq!(cost.len(), n * n, "an assignment needs {n} x {n} costs");
    assert!(cost.iter().all(|c| c.is_finite()), "an assignment needs finite costs");
}
