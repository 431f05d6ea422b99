//! Estimates of the distances of a block of rows of parts: 64 looked up at a time.

use std::arch::x86_64::{
    __m512i, _CMP_LT_OQ, _mm_add_epi16, _mm256_add_epi16, _mm256_castsi128_si256, _mm256_castsi256_si128,
    _mm256_extracti128_si256, _mm256_inserti128_si256, _mm512_add_epi8, _mm512_add_epi16, _mm512_and_si512,
    _mm512_castsi512_si256, _mm512_cmp_ps_mask, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_extracti64x4_epi64,
    _mm512_fmadd_ps, _mm512_set1_epi8, _mm512_set1_ps, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_slli_epi16,
    _mm512_srli_epi16, _mm512_sub_epi16, _mm512_unpackhi_epi16, _mm512_unpacklo_epi16,
};

use super::super::{Bounds, LINES_OF_BYTE, LINES_OF_SUM, Line, PartFactors, PartQuery};
use super::sketch::store;
use super::{LANES, Vector, load_f32, load_line};

/// Sums in 16 bits of the even and of the odd bytes, for the rows in the low and in the high halves of the codes.
#[derive(Clone, Copy)]
struct Sums {
    pairs: [__m512i; 2],
    odd: [__m512i; 2],
}

/// The tables of a line are one register, in which a shuffle looks up 16 rows of four parts at once. A shuffle leaves 6
/// bits, so that four of them are added in 8 bits before the sums are widened.
#[target_feature(enable = "avx512f,avx512bw")]
pub(in super::super) fn block_estimates<const Q: usize>(
    codes: &[Line],
    rows: PartFactors<'_>,
    queries: &[PartQuery<'_>; Q],
    estimates: &mut [Bounds; Q],
) -> [u32; Q] {
    let zero = _mm512_setzero_si512();
    let mut totals = [[_mm512_set1_ps(0.0); 2]; Q];
    for (at, codes) in codes.chunks(LINES_OF_SUM).enumerate() {
        let tables = queries.map(|query| &query.tables[at * LINES_OF_SUM..][..codes.len()]);
        let mut sums = [Sums { pairs: [zero; 2], odd: [zero; 2] }; Q];
        // Groups of one known length, so that the loop over their lines is none.
        let (groups, rest) = codes.as_chunks::<LINES_OF_BYTE>();
        let tables_of_groups = tables.map(|tables| &tables.as_chunks::<LINES_OF_BYTE>().0[..groups.len()]);
        for (group, codes) in groups.iter().enumerate() {
            let mut bytes = [[zero; 2]; Q];
            for line in 0..LINES_OF_BYTE {
                add_line(&codes[line], tables_of_groups.map(|tables| &tables[group][line]), &mut bytes);
            }
            add_bytes(bytes, &mut sums);
        }
        let mut bytes = [[zero; 2]; Q];
        for (line, codes) in rest.iter().enumerate() {
            add_line(codes, tables.map(|tables| &tables[groups.len() * LINES_OF_BYTE + line]), &mut bytes);
        }
        add_bytes(bytes, &mut sums);
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for (i, total) in totals.iter_mut().enumerate() {
                *total = super::add(*total, sums_of_rows(sums.pairs[i], sums.odd[i]));
            }
        }
    }
    let mut smaller = [0; Q];
    for (query, totals) in totals.into_iter().enumerate() {
        let PartQuery { step, offset, limit, .. } = queries[query];
        for (i, total) in totals.into_iter().enumerate() {
            let of_rows = |values: &[f32; 2 * LANES]| load_f32(&values.as_chunks::<LANES>().0[i]);
            let sum = _mm512_fmadd_ps(total, _mm512_set1_ps(step), _mm512_set1_ps(offset));
            let estimate = _mm512_fmadd_ps(sum, of_rows(rows.scale), of_rows(rows.bias));
            store(estimate, &mut estimates[query].as_chunks_mut::<LANES>().0[i]);
            let mask = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(estimate, _mm512_set1_ps(limit));
            smaller[query] |= u32::from(mask) << (LANES * i);
        }
    }
    smaller
}

/// Looks up the codes of a line in the table of each query.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_line<const Q: usize>(codes: &Line, tables: [&Line; Q], bytes: &mut [[__m512i; 2]; Q]) {
    let (code, half) = (load_line(codes), _mm512_set1_epi8(15));
    let (low, high) = (_mm512_and_si512(code, half), _mm512_and_si512(_mm512_srli_epi16::<4>(code), half));
    for (bytes, table) in bytes.iter_mut().zip(tables) {
        let table = load_line(table);
        bytes[0] = _mm512_add_epi8(bytes[0], _mm512_shuffle_epi8(table, low));
        bytes[1] = _mm512_add_epi8(bytes[1], _mm512_shuffle_epi8(table, high));
    }
}

/// Adds sums in 8 bits to those in 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_bytes<const Q: usize>(bytes: [[__m512i; 2]; Q], sums: &mut [Sums; Q]) {
    for (sums, bytes) in sums.iter_mut().zip(bytes) {
        for (i, bytes) in bytes.into_iter().enumerate() {
            sums.pairs[i] = _mm512_add_epi16(sums.pairs[i], bytes);
            sums.odd[i] = _mm512_add_epi16(sums.odd[i], _mm512_srli_epi16::<8>(bytes));
        }
    }
}

/// Adds up the four parts of each of 16 rows. `pairs` holds the sums of even bytes plus 256 times those of odd ones, which
/// wrap, and are taken off again.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sums_of_rows(pairs: __m512i, odd: __m512i) -> Vector {
    let even = _mm512_sub_epi16(pairs, _mm512_slli_epi16::<8>(odd));
    // In each 128 bits: rows 0 to 7, and rows 8 to 15, of one part of four.
    let halves = [_mm512_unpacklo_epi16(even, odd), _mm512_unpackhi_epi16(even, odd)].map(|rows| {
        let two = _mm256_add_epi16(_mm512_castsi512_si256(rows), _mm512_extracti64x4_epi64::<1>(rows));
        _mm_add_epi16(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
    });
    let rows = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(halves[0]), halves[1]);
    _mm512_cvtepi32_ps(_mm512_cvtepu16_epi32(rows))
}
