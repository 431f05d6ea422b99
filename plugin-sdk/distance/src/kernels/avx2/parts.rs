//! Estimates of the distances of a block of rows of parts: 32 looked up at a time.

use std::arch::x86_64::{
    __m256i, _CMP_LT_OQ, _mm_add_epi16, _mm256_add_epi8, _mm256_add_epi16, _mm256_and_si256, _mm256_castsi256_si128,
    _mm256_cmp_ps, _mm256_cvtepi32_ps, _mm256_cvtepu16_epi32, _mm256_extracti128_si256, _mm256_fmadd_ps,
    _mm256_movemask_ps, _mm256_set1_epi8, _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16,
    _mm256_srli_epi16, _mm256_sub_epi16, _mm256_unpackhi_epi16, _mm256_unpacklo_epi16,
};

use super::super::{BLOCK_ROWS, Bounds, LINES_OF_BYTE, LINES_OF_SUM, Line, PartFactors, PartQuery};
use super::sketch::{load_bytes, store};
use super::{LANES, Vector, add, load_f32};

/// The rows of one half of the codes.
const ROWS: usize = BLOCK_ROWS / 2;

/// As with AVX-512, with two parts of a line in a register, and query by query: there are half as many registers.
#[target_feature(enable = "avx2,fma")]
pub(in super::super) fn block_estimates<const Q: usize>(
    codes: &[Line],
    rows: PartFactors<'_>,
    queries: &[PartQuery<'_>; Q],
    estimates: &mut [Bounds; Q],
) -> [u32; Q] {
    let mut smaller = [0; Q];
    for (query, smaller) in smaller.iter_mut().enumerate() {
        let PartQuery { tables, step, offset, limit } = queries[query];
        let mut totals = [_mm256_set1_ps(0.0); BLOCK_ROWS / LANES];
        for (codes, tables) in codes.chunks(LINES_OF_SUM).zip(tables.chunks(LINES_OF_SUM)) {
            let (low, high) = sums_of_lines(codes, tables);
            for (at, sums) in [low, high].into_iter().enumerate() {
                for (i, sum) in sums.into_iter().enumerate() {
                    let total = &mut totals[at * ROWS / LANES + i];
                    *total = add(*total, sum);
                }
            }
        }
        for (i, total) in totals.into_iter().enumerate() {
            let of_rows = |values: &[f32; BLOCK_ROWS]| load_f32(&values.as_chunks::<LANES>().0[i]);
            let sum = _mm256_fmadd_ps(total, _mm256_set1_ps(step), _mm256_set1_ps(offset));
            let estimate = _mm256_fmadd_ps(sum, of_rows(rows.scale), of_rows(rows.bias));
            store(estimate, &mut estimates[query].as_chunks_mut::<LANES>().0[i]);
            let mask = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(estimate, _mm256_set1_ps(limit)));
            *smaller |= mask.cast_unsigned() << (LANES * i);
        }
    }
    smaller
}

/// The sums of the rows in the low and in the high halves of the codes.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_lines(codes: &[Line], tables: &[Line]) -> ([Vector; 2], [Vector; 2]) {
    let (half, zero) = (_mm256_set1_epi8(15), _mm256_setzero_si256());
    let (mut pairs, mut odd) = ([zero; 2], [zero; 2]);
    for (codes, tables) in codes.chunks(LINES_OF_BYTE / 2).zip(tables.chunks(LINES_OF_BYTE / 2)) {
        let mut bytes = [zero; 2];
        for (codes, tables) in codes.iter().zip(tables) {
            for (codes, table) in codes.0.as_chunks::<32>().0.iter().zip(tables.0.as_chunks::<32>().0) {
                let (code, table) = (load_bytes(codes), load_bytes(table));
                let (low, high) = (_mm256_and_si256(code, half), _mm256_and_si256(_mm256_srli_epi16::<4>(code), half));
                bytes[0] = _mm256_add_epi8(bytes[0], _mm256_shuffle_epi8(table, low));
                bytes[1] = _mm256_add_epi8(bytes[1], _mm256_shuffle_epi8(table, high));
            }
        }
        for i in 0..2 {
            pairs[i] = _mm256_add_epi16(pairs[i], bytes[i]);
            odd[i] = _mm256_add_epi16(odd[i], _mm256_srli_epi16::<8>(bytes[i]));
        }
    }
    (sums_of_rows(pairs[0], odd[0]), sums_of_rows(pairs[1], odd[1]))
}

/// Adds up the parts of each of 16 rows. `pairs` holds the sums of even bytes plus 256 times those of odd ones, which
/// wrap, and are taken off again.
#[inline]
#[target_feature(enable = "avx2")]
fn sums_of_rows(pairs: __m256i, odd: __m256i) -> [Vector; 2] {
    let even = _mm256_sub_epi16(pairs, _mm256_slli_epi16::<8>(odd));
    // In each 128 bits: rows 0 to 7, and rows 8 to 15, of one part of two.
    [_mm256_unpacklo_epi16(even, odd), _mm256_unpackhi_epi16(even, odd)].map(|rows| {
        let sum = _mm_add_epi16(_mm256_castsi256_si128(rows), _mm256_extracti128_si256::<1>(rows));
        _mm256_cvtepi32_ps(_mm256_cvtepu16_epi32(sum))
    })
}
