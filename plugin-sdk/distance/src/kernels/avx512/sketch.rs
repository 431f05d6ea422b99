//! Bounds of the scores of a block of rows: 16 rows at a time.

use std::arch::x86_64::{
    _mm512_and_si512, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_mul_ps, _mm512_set1_epi8,
    _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_si512, _mm512_slli_epi32, _mm512_srli_epi16, _mm512_storeu_ps,
    _mm512_sub_epi32,
};

use super::super::{Bounds, Octet, QueryFactors, RowFactors};
use super::{LANES, Vector, load_f32, load_line};

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(vector: Vector, out: &mut [f32; LANES]) {
    // SAFETY: the reference guarantees 64 writable bytes, and this store asks for no alignment.
    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), vector) }
}

/// A lane of a vector is a row, so nothing is added up across lanes. With 8 queries the 16 sums, the four halves of the
/// octet and two words of a query stay in registers; every load serves 8 products or 2.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(in super::super) fn block_bounds<const Q: usize>(
    block: &[Octet],
    rows: &RowFactors,
    words: &[[[i32; Q]; 2]],
    queries: &[QueryFactors; Q],
    bounds: &mut [Bounds; Q],
) {
    let half = _mm512_set1_epi8(15);
    let mut sums = [[_mm512_setzero_si512(); 2]; Q];
    for (octet, words) in block.iter().zip(words) {
        let lines = [load_line(&octet[0]), load_line(&octet[1])];
        let low = [_mm512_and_si512(lines[0], half), _mm512_and_si512(lines[1], half)];
        let high = [
            _mm512_and_si512(_mm512_srli_epi16::<4>(lines[0]), half),
            _mm512_and_si512(_mm512_srli_epi16::<4>(lines[1]), half),
        ];
        for query in 0..Q {
            let word = _mm512_set1_epi32(words[0][query]);
            for i in 0..2 {
                sums[query][i] = _mm512_dpbusd_epi32(sums[query][i], low[i], word);
            }
            let word = _mm512_set1_epi32(words[1][query]);
            for i in 0..2 {
                sums[query][i] = _mm512_dpbusd_epi32(sums[query][i], high[i], word);
            }
        }
    }
    for query in 0..Q {
        let factors = queries[query];
        for (i, &sum) in sums[query].iter().enumerate() {
            let of_rows = |values: &[f32; 2 * LANES]| load_f32(&values.as_chunks::<LANES>().0[i]);
            let shift = _mm512_set1_epi32(factors.shift);
            let product = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_slli_epi32::<1>(sum), shift));
            let product = _mm512_mul_ps(product, of_rows(&rows.scale));
            let rest = _mm512_fmadd_ps(of_rows(&rows.length), _mm512_set1_ps(factors.rest), of_rows(&rows.offset));
            let rest = _mm512_fmadd_ps(of_rows(&rows.error), _mm512_set1_ps(factors.error), rest);
            let bound = _mm512_fmadd_ps(product, _mm512_set1_ps(factors.scale), rest);
            store(bound, &mut bounds[query].as_chunks_mut::<LANES>().0[i]);
        }
    }
}
