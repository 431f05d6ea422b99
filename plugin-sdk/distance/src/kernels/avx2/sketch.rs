//! Bounds of the scores of a block of rows: 8 rows at a time.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi16, _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi32_ps, _mm256_fmadd_ps,
    _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_si256, _mm256_slli_epi32, _mm256_srli_epi16, _mm256_storeu_ps,
    _mm256_sub_epi32,
};

use super::super::{BLOCK_ROWS, Bounds, Octet, QueryFactors, RowFactors};
use super::{LANES, Vector, load_f32};

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_bytes(bytes: &[i8; 32]) -> __m256i {
    // SAFETY: the reference guarantees 32 readable bytes, and this load asks for no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast::<__m256i>()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(vector: Vector, out: &mut [f32; LANES]) {
    // SAFETY: the reference guarantees 32 writable bytes, and this store asks for no alignment.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), vector) }
}

/// Two products of 4 bits and 8 fit into 16 bits, so that bytes are multiplied directly (`maddubs`).
#[target_feature(enable = "avx2,fma")]
pub(in super::super) fn block_bounds<const Q: usize>(
    block: &[Octet],
    rows: &RowFactors,
    words: &[[[i32; Q]; 2]],
    queries: &[QueryFactors; Q],
    bounds: &mut [Bounds; Q],
) {
    let (half, ones) = (_mm256_set1_epi8(15), _mm256_set1_epi16(1));
    for part in 0..BLOCK_ROWS / LANES {
        let mut sums = [_mm256_setzero_si256(); Q];
        for (octet, words) in block.iter().zip(words) {
            let bytes = load_bytes(&octet[part / 2].0.as_chunks::<32>().0[part % 2]);
            let (low, high) = (_mm256_and_si256(bytes, half), _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), half));
            for query in 0..Q {
                let low = _mm256_maddubs_epi16(low, _mm256_set1_epi32(words[0][query]));
                let high = _mm256_maddubs_epi16(high, _mm256_set1_epi32(words[1][query]));
                let pairs = _mm256_madd_epi16(_mm256_add_epi16(low, high), ones);
                sums[query] = _mm256_add_epi32(sums[query], pairs);
            }
        }
        for query in 0..Q {
            let factors = queries[query];
            let of_rows = |values: &[f32; BLOCK_ROWS]| load_f32(&values.as_chunks::<LANES>().0[part]);
            let shift = _mm256_set1_epi32(factors.shift);
            let product = _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_slli_epi32::<1>(sums[query]), shift));
            let product = _mm256_mul_ps(product, of_rows(&rows.scale));
            let rest = _mm256_fmadd_ps(of_rows(&rows.length), _mm256_set1_ps(factors.rest), of_rows(&rows.offset));
            let rest = _mm256_fmadd_ps(of_rows(&rows.error), _mm256_set1_ps(factors.error), rest);
            let bound = _mm256_fmadd_ps(product, _mm256_set1_ps(factors.scale), rest);
            store(bound, &mut bounds[query].as_chunks_mut::<LANES>().0[part]);
        }
    }
}
