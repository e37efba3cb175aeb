//! The items of a list in both orders, in O(n).

/// Lists below this length are sorted by comparisons.
const SHORT: usize = 512;
/// Bits of one digit of the radix sort.
const DIGIT: u32 = 11;
/// Digits of a key.
const DIGITS: usize = 6;

/// One item with its places in the order of p. A place range `0..end` is stored as its end.
#[derive(Clone, Copy)]
pub(super) struct Item {
    /// p less the mean, for accuracy.
    pub(super) x: f64,
    pub(super) q: f64,
    /// Position in the list.
    pub(super) index: u32,
    /// Its own place.
    pub(super) place: u32,
    /// Places of the items with less p.
    pub(super) before: u32,
    /// Places of the items with the same p or less.
    pub(super) after: u32,
    /// Places of the items at or below p − τ2.
    pub(super) reach_down: u32,
    /// Places of the items below p + τ2.
    pub(super) reach_up: u32,
}

/// The items by rising q, equal ones by their position in the list.
pub(super) fn by_q(p: &[f64], q: &[f64], tau2: f64) -> Vec<Item> {
    let n = p.len();
    let (order_p, order_q) = rayon::join(|| sorted(p), || sorted(q));
    let values: Vec<f64> = order_p.iter().map(|&i| p[i as usize]).collect();
    let mean = p.iter().sum::<f64>() / n as f64;
    let mut items = Vec::with_capacity(n);
    let (mut before, mut down, mut up) = (0, 0, 0);
    for (place, (&x, &index)) in values.iter().zip(&order_p).enumerate() {
        if values[before] != x {
            before = place;
        }
        // Differences of sorted numbers are sorted, rounded or not: neither end ever moves back.
        while down < n && x - values[down] >= tau2 {
            down += 1;
        }
        while up < n && values[up] - x < tau2 {
            up += 1;
        }
        let [place, before, reach_down, reach_up] = [place, before, down, up].map(|v| v as u32);
        let (x, q) = (x - mean, q[index as usize]);
        items.push(Item { x, q, index, place, before, after: place + 1, reach_down, reach_up });
    }
    for k in (1..n).rev() {
        if items[k].before == items[k - 1].before {
            items[k - 1].after = items[k].after;
        }
    }
    let mut place_of = vec![0; n];
    order_p.iter().zip(0u32..).for_each(|(&i, place)| place_of[i as usize] = place);
    order_q.iter().map(|&i| items[place_of[i as usize] as usize]).collect()
}

/// Positions of the values in rising order, equal ones in the order of the list.
fn sorted(values: &[f64]) -> Vec<u32> {
    let mut keys: Vec<(u64, u32)> = values.iter().map(|v| key(*v)).zip(0..).collect();
    if keys.len() < SHORT {
        keys.sort_unstable();
    } else {
        radix_sort(&mut keys);
    }
    keys.into_iter().map(|(_, i)| i).collect()
}

/// A number whose order is that of the values. Both zeros are one.
fn key(value: f64) -> u64 {
    let bits = (value + 0.0).to_bits();
    if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
}

/// Stable sort by the keys, from the lowest digit on. Digits that all keys share cost nothing: float64 numbers that were
/// float32 have only three or four others.
fn radix_sort(keys: &mut Vec<(u64, u32)>) {
    let digit = |key: u64, d: usize| (key >> (DIGIT * d as u32)) as usize & ((1 << DIGIT) - 1);
    let mut counts = vec![[0u32; 1 << DIGIT]; DIGITS];
    for (key, _) in keys.iter() {
        for (d, counts) in counts.iter_mut().enumerate() {
            counts[digit(*key, d)] += 1;
        }
    }
    let mut moved = vec![(0, 0); keys.len()];
    for (d, counts) in counts.iter_mut().enumerate() {
        if keys.first().is_none_or(|(key, _)| counts[digit(*key, d)] as usize == keys.len()) {
            continue;
        }
        let mut start = 0;
        for count in counts.iter_mut() {
            start += std::mem::replace(count, start);
        }
        for entry in keys.iter() {
            let at = &mut counts[digit(entry.0, d)];
            moved[*at as usize] = *entry;
            *at += 1;
        }
        std::mem::swap(keys, &mut moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use random::{Axis, Seeds};

    #[test]
    fn sorting_is_stable_for_any_length_and_sign() {
        let mut stream = Seeds::new(5).stream(Axis::Test, &[]);
        for n in [1, 2, 100, SHORT - 1, SHORT, 3000] {
            for whole in [true, false] {
                let draw = |_| {
                    let v = 8.0 * stream.normal();
                    if whole { v.round() } else { v }
                };
                let values: Vec<f64> = (0..n).map(draw).collect();
                let mut want: Vec<u32> = (0..n as u32).collect();
                // `partial_cmp` has one zero, as the loss has.
                want.sort_by(|&i, &j| values[i as usize].partial_cmp(&values[j as usize]).unwrap());
                assert_eq!(sorted(&values), want, "{n} values");
            }
        }
    }

    #[test]
    fn places_are_what_they_say() {
        let mut stream = Seeds::new(6).stream(Axis::Test, &[]);
        for n in [1, 7, 40, 700] {
            // Quarters: many are equal, and many differ by exactly τ2.
            let mut list = || (0..n).map(|_| (4.0 * stream.normal()).round() / 4.0).collect::<Vec<f64>>();
            let (p, q) = (list(), list());
            let items = by_q(&p, &q, 0.5);
            assert!(items.windows(2).all(|w| (w[0].q, w[0].index) < (w[1].q, w[1].index)));
            let mut places: Vec<u32> = items.iter().map(|item| item.place).collect();
            places.sort_unstable();
            assert_eq!(places, (0..n as u32).collect::<Vec<_>>());
            for item in items {
                let own = p[item.index as usize];
                let count = |inside: &dyn Fn(f64) -> bool| p.iter().filter(|v| inside(**v)).count() as u32;
                assert_eq!(item.before, count(&|v| v < own));
                assert_eq!(item.after, count(&|v| v <= own));
                assert_eq!(item.reach_down, count(&|v| own - v >= 0.5));
                assert_eq!(item.reach_up, count(&|v| v - own < 0.5));
                assert!((item.before..item.after).contains(&item.place));
            }
        }
    }
}
