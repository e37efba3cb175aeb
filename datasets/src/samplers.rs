//! Orders of items in an epoch.

use random::{Axis, Seeds};

/// The items `0..n` in the order of this epoch, uniformly random, the same for every method.
pub fn epoch_order(seeds: Seeds, epoch: u64, n: usize) -> Vec<usize> {
    seeds.stream(Axis::Order, &[epoch]).permutation(n)
}

/// Cuts an order into batches. With `drop_last` an incomplete last batch is left out, unless it is the only one: an
/// epoch is never empty because the batch size is larger than the dataset.
///
/// # Panics
/// If `batch_size` is 0.
pub fn batches(order: &[usize], batch_size: usize, drop_last: bool) -> Vec<Vec<usize>> {
    assert!(batch_size > 0, "batches: a batch of 0 items");
    let mut batches: Vec<Vec<usize>> = order.chunks(batch_size).map(<[usize]>::to_vec).collect();
    if drop_last && batches.len() > 1 && batches.last().is_some_and(|last| last.len() < batch_size) {
        batches.pop();
    }
    batches
}

/// Batches of `classes_per_batch` different classes with `m` items each, for objectives that need several items of a
/// class in a batch.
///
/// The items of a class are shuffled and cut into groups of `m`; a group that remains incomplete is filled with other
/// items of the class, and with repeats if it has fewer than `m`. So every item occurs at least once in a group. A
/// batch takes one group of each of the classes with the most groups left, ties in random order; groups that remain
/// when fewer than `classes_per_batch` classes have any are left out, unless there is no full batch at all. The
/// batches come in random order.
///
/// # Panics
/// If `m` or `classes_per_batch` is 0.
pub fn m_per_class(labels: &[u32], m: usize, classes_per_batch: usize, seeds: Seeds, epoch: u64) -> Vec<Vec<usize>> {
    assert!(m > 0 && classes_per_batch > 0, "m_per_class: {classes_per_batch} classes of {m} items");
    let mut stream = seeds.stream(Axis::Order, &[epoch, 1]);
    let classes = labels.iter().max().map_or(0, |&label| label as usize + 1);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); classes];
    labels.iter().enumerate().for_each(|(item, &label)| members[label as usize].push(item));
    let mut groups: Vec<Vec<Vec<usize>>> = Vec::with_capacity(classes);
    for items in &mut members {
        stream.shuffle(items);
        let missing = (m - items.len() % m) % m;
        let filled: Vec<usize> = items.iter().cycle().take(items.len() + missing).copied().collect();
        groups.push(if items.is_empty() { Vec::new() } else { filled.chunks(m).map(<[usize]>::to_vec).collect() });
    }
    let mut batches = Vec::new();
    loop {
        let mut order = stream.permutation(classes);
        order.retain(|&class| !groups[class].is_empty());
        order.sort_by_key(|&class| std::cmp::Reverse(groups[class].len()));
        if order.is_empty() || (order.len() < classes_per_batch && !batches.is_empty()) {
            break;
        }
        let chosen = order.into_iter().take(classes_per_batch);
        batches.push(chosen.filter_map(|class| groups[class].pop()).flatten().collect());
    }
    stream.shuffle(&mut batches);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_batch_is_dropped_only_beside_a_whole_one() {
        let order: Vec<usize> = (0..7).collect();
        assert_eq!(batches(&order, 3, false), [vec![0, 1, 2], vec![3, 4, 5], vec![6]]);
        assert_eq!(batches(&order, 3, true), [vec![0, 1, 2], vec![3, 4, 5]]);
        assert_eq!(batches(&order, 8, true).concat(), order);
        assert_eq!(batches(&order, 7, true).concat(), order);
        assert!(batches(&[], 3, true).is_empty());
    }

    #[test]
    fn an_order_belongs_to_its_epoch_and_seed() {
        let seeds = Seeds::new(42);
        assert_eq!(epoch_order(seeds, 3, 50), epoch_order(seeds, 3, 50));
        assert_ne!(epoch_order(seeds, 3, 50), epoch_order(seeds, 4, 50));
        assert_ne!(epoch_order(seeds, 3, 50), epoch_order(Seeds::new(43), 3, 50));
    }

    #[test]
    fn balanced_classes_are_used_exactly_once() {
        let labels: Vec<u32> = (0..24).map(|i| i % 6).collect();
        let batches = m_per_class(&labels, 2, 3, Seeds::new(1), 0);
        let mut all: Vec<usize> = batches.iter().flatten().copied().collect();
        all.sort_unstable();
        assert_eq!(all, (0..24).collect::<Vec<_>>());
        assert_ne!(batches, m_per_class(&labels, 2, 3, Seeds::new(1), 1));
    }

    #[test]
    fn too_few_classes_still_give_a_batch() {
        let batches = m_per_class(&[0, 1, 1], 2, 5, Seeds::new(1), 0);
        assert_eq!(batches.len(), 1);
        assert_eq!(batches[0].len(), 4);
        assert!(m_per_class(&[], 2, 5, Seeds::new(1), 0).is_empty());
    }

    proptest! {
        #[test]
        fn every_epoch_is_a_permutation(seed: u64, epoch: u64, n in 0usize..300) {
            let mut order = epoch_order(Seeds::new(seed), epoch, n);
            order.sort_unstable();
            prop_assert_eq!(order, (0..n).collect::<Vec<_>>());
        }

        #[test]
        fn batches_keep_the_order(n in 0usize..100, size in 1usize..20) {
            let order: Vec<usize> = (0..n).rev().collect();
            prop_assert_eq!(batches(&order, size, false).concat(), order.clone());
            let kept = batches(&order, size, true).concat();
            let whole = if n < size { n } else { n - n % size };
            prop_assert_eq!(kept, order[..whole].to_vec());
        }

        #[test]
        fn batches_have_m_of_each_of_their_classes(
            labels in proptest::collection::vec(0u32..7, 1..80), m in 1usize..5, p in 1usize..5, seed: u64,
        ) {
            let distinct = labels.iter().collect::<std::collections::HashSet<_>>().len();
            let batches = m_per_class(&labels, m, p, Seeds::new(seed), 0);
            prop_assert!(!batches.is_empty());
            for batch in &batches {
                prop_assert_eq!(batch.len(), m * p.min(distinct));
                let mut seen = std::collections::BTreeMap::new();
                batch.iter().for_each(|&i| *seen.entry(labels[i]).or_insert(0) += 1);
                prop_assert_eq!(seen.len(), p.min(distinct));
                prop_assert!(seen.values().all(|&n| n == m));
            }
        }
    }
}
