//! Kernels for AVX-512 (F, BW) and VNNI: 16 floats or 64 codes at a time.

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _mm_add_epi32, _mm_extract_epi32, _mm_loadu_si128, _mm256_add_epi32,
    _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_loadu_si256, _mm512_add_epi32, _mm512_add_ps,
    _mm512_and_si512, _mm512_castsi512_si256, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps,
    _mm512_dpbusd_epi32, _mm512_extracti64x4_epi64, _mm512_fmadd_ps, _mm512_load_si512, _mm512_loadu_ps,
    _mm512_reduce_add_epi32, _mm512_reduce_add_ps, _mm512_set1_epi8, _mm512_setzero_ps, _mm512_setzero_si512,
    _mm512_srli_epi16, _mm512_sub_ps, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use half::f16;

use super::products::padded;
use super::{Line, code_row, hadamard_loops, prefetch};

mod sketch;
pub(super) use sketch::block_bounds;

type Vector = __m512;
const LANES: usize = 16;

/// How many rows ahead of the current one are loaded into the cache.
const AHEAD: usize = 4;

#[inline]
#[target_feature(enable = "avx512f")]
fn zero() -> Vector {
    _mm512_setzero_ps()
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f32(block: &[f32; LANES]) -> Vector {
    // SAFETY: the reference guarantees 64 readable bytes, and this load asks for no alignment.
    unsafe { _mm512_loadu_ps(block.as_ptr()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_f16(block: &[f16; LANES]) -> Vector {
    // SAFETY: the reference guarantees 32 readable bytes, and this load asks for no alignment.
    let halves = unsafe { _mm256_loadu_si256(block.as_ptr().cast::<__m256i>()) };
    _mm512_cvtph_ps(halves)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_i8(block: &[i8; LANES]) -> Vector {
    // SAFETY: the reference guarantees 16 readable bytes, and this load asks for no alignment.
    let bytes = unsafe { _mm_loadu_si128(block.as_ptr().cast::<__m128i>()) };
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: Vector, b: Vector) -> Vector {
    _mm512_add_ps(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn multiply_add(sum: Vector, a: Vector, b: Vector) -> Vector {
    _mm512_fmadd_ps(a, b, sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn subtract_square_add(sum: Vector, a: Vector, b: Vector) -> Vector {
    let difference = _mm512_sub_ps(a, b);
    _mm512_fmadd_ps(difference, difference, sum)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum(vector: Vector) -> f32 {
    _mm512_reduce_add_ps(vector)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn sum_of_four([a, b, c, d]: [Vector; 4]) -> f32 {
    sum(add(add(a, b), add(c, d)))
}

products!(
    features: "avx512f", element: f32, load: load_f32,
    dot_f32, l2_squared_f32, norm_squared_f32, dot_and_norm_f32
);
products!(
    features: "avx512f", element: f16, load: load_f16,
    dot_f16, l2_squared_f16, norm_squared_f16, dot_and_norm_f16
);
products!(
    features: "avx512f", element: i8, load: load_i8,
    dot_i8, l2_squared_i8, norm_squared_i8, dot_and_norm_i8
);

#[inline]
#[target_feature(enable = "avx512f")]
fn load_line(line: &Line) -> __m512i {
    // SAFETY: the reference guarantees 64 readable bytes, and `Line` is aligned to 64.
    unsafe { _mm512_load_si512(std::ptr::from_ref(line).cast::<__m512i>()) }
}

/// VNNI multiplies unsigned by signed bytes, so a row is shifted by 128 (its sign bits are flipped) and `128 * sum of
/// the query` is taken off at the end. Sums wrap, which the subtraction undoes.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dots_of_codes(query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    let shift = _mm512_set1_epi8(i8::MIN);
    // 128 as an unsigned byte is `shift` itself.
    let excess =
        query.iter().fold(_mm512_setzero_si512(), |sum, line| _mm512_dpbusd_epi32(sum, shift, load_line(line)));
    let excess = _mm512_reduce_add_epi32(excess);
    let (query_pairs, query_one) = query.as_chunks::<2>();
    for &row in rows.iter().take(AHEAD) {
        prefetch(code_row(lines, query.len(), row));
    }
    for (i, (&row, out)) in rows.iter().zip(out).enumerate() {
        if let Some(&next) = rows.get(i + AHEAD) {
            prefetch(code_row(lines, query.len(), next));
        }
        let (row_pairs, row_one) = code_row(lines, query.len(), row).as_chunks::<2>();
        let mut sums = [_mm512_setzero_si512(); 2];
        for (query, row) in query_pairs.iter().zip(row_pairs) {
            for i in 0..2 {
                let shifted = _mm512_xor_si512(load_line(&row[i]), shift);
                sums[i] = _mm512_dpbusd_epi32(sums[i], shifted, load_line(&query[i]));
            }
        }
        for (query, row) in query_one.iter().zip(row_one) {
            let shifted = _mm512_xor_si512(load_line(row), shift);
            sums[0] = _mm512_dpbusd_epi32(sums[0], shifted, load_line(query));
        }
        *out = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1])).wrapping_sub(excess);
    }
}

/// Adds the products of the digits at one place of each byte with a line of the query. The digits are unsigned bytes once
/// they are masked, as VNNI wants one side to be.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn add_digits<const SHIFT: u32>(sum: __m512i, digits: __m512i, query: &Line) -> __m512i {
    let digits = _mm512_and_si512(_mm512_srli_epi16::<SHIFT>(digits), _mm512_set1_epi8(3));
    _mm512_dpbusd_epi32(sum, digits, load_line(query))
}

/// The products of a query with the digits of a row, in 16 sums.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn digit_products(query: &[Line], row: &[Line]) -> __m512i {
    let (query_fours, query_rest) = query.as_chunks::<4>();
    let (mut even, mut odd) = (_mm512_setzero_si512(), _mm512_setzero_si512());
    for (query, digits) in query_fours.iter().zip(row) {
        let digits = load_line(digits);
        even = add_digits::<0>(even, digits, &query[0]);
        odd = add_digits::<2>(odd, digits, &query[1]);
        even = add_digits::<4>(even, digits, &query[2]);
        odd = add_digits::<6>(odd, digits, &query[3]);
    }
    if let ([first, others @ ..], Some(digits)) = (query_rest, row.last()) {
        let digits = load_line(digits);
        even = add_digits::<0>(even, digits, first);
        if let Some(second) = others.first() {
            odd = add_digits::<2>(odd, digits, second);
        }
        if let Some(third) = others.get(1) {
            even = add_digits::<4>(even, digits, third);
        }
    }
    _mm512_add_epi32(even, odd)
}

/// Twice the sum with the digits, less three times the sum of the query, is what the odd numbers would have given. Four
/// rows at a time, so that their sums are added up together.
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
pub(super) fn dots_of_digits(query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    let three = _mm512_set1_epi8(3);
    let mut excess = _mm512_setzero_si512();
    for line in query {
        excess = _mm512_dpbusd_epi32(excess, three, load_line(line));
    }
    let excess = _mm512_reduce_add_epi32(excess);
    let per_row = query.len().div_ceil(4);
    let length = rows.len().min(out.len());
    let (row_fours, row_rest) = rows[..length].as_chunks::<4>();
    let (out_fours, out_rest) = out[..length].as_chunks_mut::<4>();
    for (rows, out) in row_fours.iter().zip(out_fours) {
        let sums = sums_of_four([
            digit_products(query, code_row(lines, per_row, rows[0])),
            digit_products(query, code_row(lines, per_row, rows[1])),
            digit_products(query, code_row(lines, per_row, rows[2])),
            digit_products(query, code_row(lines, per_row, rows[3])),
        ]);
        for i in 0..4 {
            out[i] = 2 * sums[i] - excess;
        }
    }
    for (&row, out) in row_rest.iter().zip(out_rest) {
        *out = 2 * _mm512_reduce_add_epi32(digit_products(query, code_row(lines, per_row, row))) - excess;
    }
}

/// The sum of the numbers of each vector.
#[inline]
#[target_feature(enable = "avx512f")]
fn sums_of_four([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    // In each quarter a sum of a, b, c and d.
    let quarters = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let halves = _mm256_add_epi32(_mm512_castsi512_si256(quarters), _mm512_extracti64x4_epi64::<1>(quarters));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
    [
        _mm_extract_epi32::<0>(sums),
        _mm_extract_epi32::<1>(sums),
        _mm_extract_epi32::<2>(sums),
        _mm_extract_epi32::<3>(sums),
    ]
}

#[target_feature(enable = "avx512f")]
pub(super) fn hadamard(values: &mut [f32]) {
    hadamard_loops(values);
}
