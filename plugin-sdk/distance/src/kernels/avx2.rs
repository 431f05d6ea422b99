//! Kernels for AVX2 with FMA and F16C: 8 floats or 32 codes at a time.

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_add_epi32, _mm_add_ps, _mm_add_ss, _mm_cvtsi128_si32, _mm_cvtss_f32, _mm_loadl_epi64,
    _mm_loadu_si128, _mm_movehl_ps, _mm_shuffle_epi32, _mm_shuffle_ps, _mm256_add_epi32, _mm256_add_ps,
    _mm256_and_si256, _mm256_castps256_ps128, _mm256_castsi256_si128, _mm256_cvtepi8_epi16, _mm256_cvtepi8_epi32,
    _mm256_cvtepi32_ps, _mm256_cvtph_ps, _mm256_extractf128_ps, _mm256_extracti128_si256, _mm256_fmadd_ps,
    _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_maddubs_epi16, _mm256_set1_epi8, _mm256_set1_epi16,
    _mm256_setzero_ps, _mm256_setzero_si256, _mm256_srli_epi16, _mm256_sub_ps,
};

use half::f16;

use super::products::padded;
use super::{Line, code_row, hadamard_loops, prefetch};

mod sketch;
pub(super) use sketch::block_bounds;

type Vector = __m256;
const LANES: usize = 8;

/// How many rows ahead of the current one are loaded into the cache.
const AHEAD: usize = 4;

#[inline]
#[target_feature(enable = "avx2")]
fn zero() -> Vector {
    _mm256_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(block: &[f32; LANES]) -> Vector {
    // SAFETY: the reference guarantees 32 readable bytes, and this load asks for no alignment.
    unsafe { _mm256_loadu_ps(block.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn load_f16(block: &[f16; LANES]) -> Vector {
    // SAFETY: the reference guarantees 16 readable bytes, and this load asks for no alignment.
    let halves = unsafe { _mm_loadu_si128(block.as_ptr().cast::<__m128i>()) };
    _mm256_cvtph_ps(halves)
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_i8(block: &[i8; LANES]) -> Vector {
    // SAFETY: the reference guarantees 8 readable bytes, and this load asks for no alignment.
    let bytes = unsafe { _mm_loadl_epi64(block.as_ptr().cast::<__m128i>()) };
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm256_add_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn multiply_add(sum: Vector, a: Vector, b: Vector) -> Vector {
    _mm256_fmadd_ps(a, b, sum)
}

#[inline]
#[target_feature(enable = "avx2,fma")]
fn subtract_square_add(sum: Vector, a: Vector, b: Vector) -> Vector {
    let difference = _mm256_sub_ps(a, b);
    _mm256_fmadd_ps(difference, difference, sum)
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum(vector: Vector) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(vector), _mm256_extractf128_ps::<1>(vector));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_of_four([a, b, c, d]: [Vector; 4]) -> f32 {
    sum(add(add(a, b), add(c, d)))
}

products!(
    features: "avx2,fma,f16c", element: f32, load: load_f32,
    dot_f32, l2_squared_f32, norm_squared_f32, dot_and_norm_f32
);
products!(
    features: "avx2,fma,f16c", element: f16, load: load_f16,
    dot_f16, l2_squared_f16, norm_squared_f16, dot_and_norm_f16
);
products!(
    features: "avx2,fma", element: i8, load: load_i8,
    dot_i8, l2_squared_i8, norm_squared_i8, dot_and_norm_i8
);

/// Sixteen codes, each as 16 bits.
#[inline]
#[target_feature(enable = "avx2")]
fn load_codes(codes: &[i8; 16]) -> __m256i {
    // SAFETY: the reference guarantees 16 readable bytes, and this load asks for no alignment.
    let bytes = unsafe { _mm_loadu_si128(codes.as_ptr().cast::<__m128i>()) };
    _mm256_cvtepi8_epi16(bytes)
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_i32(vector: __m256i) -> i32 {
    let four = _mm_add_epi32(_mm256_castsi256_si128(vector), _mm256_extracti128_si256::<1>(vector));
    let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b00_00_11_10>(four));
    _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two)))
}

/// Widens to 16 bits first: multiplying bytes directly (`maddubs`) saturates.
#[target_feature(enable = "avx2")]
pub(super) fn dots_of_codes(query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    for (i, (&row, out)) in rows.iter().zip(out).enumerate() {
        if let Some(&next) = rows.get(i + AHEAD) {
            prefetch(code_row(lines, query.len(), next));
        }
        let mut sums = [_mm256_setzero_si256(); 4];
        for (query, row) in query.iter().zip(code_row(lines, query.len(), row)) {
            let (query, row) = (query.0.as_chunks::<16>().0, row.0.as_chunks::<16>().0);
            for ((sum, query), row) in sums.iter_mut().zip(query).zip(row) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(load_codes(query), load_codes(row)));
            }
        }
        let [a, b, c, d] = sums;
        *out = sum_i32(_mm256_add_epi32(_mm256_add_epi32(a, b), _mm256_add_epi32(c, d)));
    }
}

/// Half a line.
#[inline]
#[target_feature(enable = "avx2")]
fn load_half(half: &[i8; 32]) -> __m256i {
    // SAFETY: the reference guarantees 32 readable bytes, and this load asks for no alignment.
    unsafe { _mm256_loadu_si256(half.as_ptr().cast::<__m256i>()) }
}

/// Two products of a digit and a byte are at most 768, so that `maddubs` does not saturate here.
#[target_feature(enable = "avx2")]
pub(super) fn dots_of_digits(query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    let (three, ones) = (_mm256_set1_epi8(3), _mm256_set1_epi16(1));
    let excess = 3 * query.iter().flat_map(|line| line.0).map(i32::from).sum::<i32>();
    let per_row = query.len().div_ceil(4);
    for (&row, out) in rows.iter().zip(out) {
        let mut sums = [_mm256_setzero_si256(); 2];
        for (query, line) in query.chunks(4).zip(code_row(lines, per_row, row)) {
            for (sum, (at, half)) in sums.iter_mut().zip(line.0.as_chunks::<32>().0.iter().enumerate()) {
                let mut digits = load_half(half);
                for query in query {
                    let query = load_half(&query.0.as_chunks::<32>().0[at]);
                    let products = _mm256_maddubs_epi16(_mm256_and_si256(digits, three), query);
                    *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(products, ones));
                    digits = _mm256_srli_epi16::<2>(digits);
                }
            }
        }
        *out = 2 * sum_i32(_mm256_add_epi32(sums[0], sums[1])) - excess;
    }
}

#[target_feature(enable = "avx2")]
pub(super) fn hadamard(values: &mut [f32]) {
    hadamard_loops(values);
}
