//! Every kernel against the plain loop, at odd lengths and odd addresses.

use proptest::prelude::*;

use super::sealed::Kernels;
use super::*;

/// Two vectors of equal length, of values that f16 holds too, and how far from an aligned address they start.
fn pair() -> impl Strategy<Value = (Vec<f32>, Vec<f32>, usize)> {
    (0_usize..200, 0_usize..5).prop_flat_map(|(length, offset)| {
        let values = move || prop::collection::vec(-100.0_f32..100.0, length + offset);
        (values(), values(), Just(offset))
    })
}

/// In f64, with the size of the terms, which bounds the rounding error of a sum in any order.
fn reference(query: &[f32], row: &[f32], term: impl Fn(f64, f64) -> f64) -> (f64, f64) {
    let terms = || query.iter().zip(row).map(|(&a, &b)| term(a.into(), b.into()));
    (terms().sum(), terms().map(f64::abs).sum())
}

fn close(found: f32, (expected, size): (f64, f64)) -> bool {
    (f64::from(found) - expected).abs() <= 1e-5 * size + 1e-30
}

fn check<E: Element>(query: &[f32], row: &[E]) -> Result<(), TestCaseError> {
    let plain: Vec<f32> = row.iter().map(|&value| value.into()).collect();
    let dot = reference(query, &plain, |a, b| a * b);
    let l2 = reference(query, &plain, |a, b| (a - b) * (a - b));
    let norm = reference(&plain, &plain, |a, b| a * b);
    for level in Level::available() {
        prop_assert!(close(E::dot(level, query, row), dot), "dot {level:?}");
        prop_assert!(close(E::l2_squared(level, query, row), l2), "l2 {level:?}");
        prop_assert!(close(E::norm_squared(level, row), norm), "norm {level:?}");
        let both = E::dot_and_norm(level, query, row);
        prop_assert!(close(both.0, dot) && close(both.1, norm), "dot and norm {level:?}");
    }
    Ok(())
}

proptest! {
    #[test]
    fn f32_kernels_agree_with_f64((query, row, offset) in pair()) {
        check(&query[offset..], &row[offset..])?;
    }

    #[test]
    fn f16_kernels_agree_with_f64((query, row, offset) in pair()) {
        let row: Vec<f16> = row.into_iter().map(f16::from_f32).collect();
        check(&query[offset..], &row[offset..])?;
    }

    #[test]
    fn i8_kernels_agree_with_f64((query, row, offset) in pair()) {
        let row: Vec<i8> = row.into_iter().map(|value| value as i8).collect();
        check(&query[offset..], &row[offset..])?;
    }

    #[test]
    fn every_f16_widens_to_the_same_f32(bits in any::<u16>()) {
        let value = f16::from_bits(bits);
        prop_assume!(value.is_finite());
        for level in Level::available() {
            prop_assert_eq!(f16::dot(level, &[1.0], &[value]), f32::from(value));
        }
    }

    #[test]
    fn the_excess_of_a_longer_side_is_ignored(a in 0_usize..70, b in 0_usize..70) {
        let (query, row) = (vec![1.0_f32; a], vec![1.0_f32; b]);
        for level in Level::available() {
            prop_assert_eq!(f32::dot(level, &query, &row), a.min(b) as f32);
            prop_assert_eq!(f32::dot_and_norm(level, &query, &row), (a.min(b) as f32, b as f32));
        }
    }
}

#[test]
fn prefetching_nothing_is_allowed() {
    prefetch::<f32>(&[]);
    prefetch(&[1_u64; 100]);
}
