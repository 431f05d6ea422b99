//! Plain loops: the reference for the other kernels, and what processors without vector instructions use.

use half::f16;

use super::{
    BLOCK_ROWS, Bounds, Line, Octet, PartFactors, PartQuery, QueryFactors, RowFactors, code_row, hadamard_loops,
};

fn sum_over<E: Copy + Into<f32>>(query: &[f32], row: &[E], term: impl Fn(f32, f32) -> f32) -> f32 {
    query.iter().zip(row).map(|(&a, &b)| term(a, b.into())).sum()
}

macro_rules! kernels {
    ($element:ty: $dot:ident, $l2_squared:ident, $norm_squared:ident, $dot_and_norm:ident) => {
        pub(super) fn $dot(query: &[f32], row: &[$element]) -> f32 {
            sum_over(query, row, |a, b| a * b)
        }
        pub(super) fn $l2_squared(query: &[f32], row: &[$element]) -> f32 {
            sum_over(query, row, |a, b| (a - b) * (a - b))
        }
        pub(super) fn $norm_squared(row: &[$element]) -> f32 {
            row.iter().map(|&value| f32::from(value)).map(|value| value * value).sum()
        }
        pub(super) fn $dot_and_norm(query: &[f32], row: &[$element]) -> (f32, f32) {
            ($dot(query, row), $norm_squared(row))
        }
    };
}

kernels!(f32: dot_f32, l2_squared_f32, norm_squared_f32, dot_and_norm_f32);
kernels!(f16: dot_f16, l2_squared_f16, norm_squared_f16, dot_and_norm_f16);
kernels!(i8: dot_i8, l2_squared_i8, norm_squared_i8, dot_and_norm_i8);

pub(super) fn dots_of_codes(query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    for (&row, out) in rows.iter().zip(out) {
        *out = query
            .iter()
            .zip(code_row(lines, query.len(), row))
            .flat_map(|(a, b)| a.0.iter().zip(&b.0))
            .fold(0, |sum, (&a, &b)| sum.wrapping_add(i32::from(a) * i32::from(b)));
    }
}

pub(super) fn block_bounds<const Q: usize>(
    block: &[Octet],
    rows: &RowFactors,
    words: &[[[i32; Q]; 2]],
    queries: &[QueryFactors; Q],
    bounds: &mut [Bounds; Q],
) {
    let mut sums = [[0; BLOCK_ROWS]; Q];
    for (octet, words) in block.iter().zip(words) {
        for (row, codes) in octet.iter().flat_map(|line| line.0.as_chunks::<4>().0).enumerate() {
            for (query, sums) in sums.iter_mut().enumerate() {
                let [low, high] =
                    [words[0][query], words[1][query]].map(|word| word.to_le_bytes().map(u8::cast_signed));
                for ((code, low), high) in codes.iter().map(|code| code.cast_unsigned()).zip(low).zip(high) {
                    sums[row] += i32::from(code & 15) * i32::from(low) + i32::from(code >> 4) * i32::from(high);
                }
            }
        }
    }
    for (query, factors) in queries.iter().enumerate() {
        for row in 0..BLOCK_ROWS {
            let product = (2 * sums[query][row] - factors.shift) as f32 * rows.scale[row] * factors.scale;
            let slack = rows.error[row] * factors.error + rows.length[row] * factors.rest;
            let bound = product + slack + rows.offset[row];
            bounds[query][row] = bound;
        }
    }
}

pub(super) fn block_estimates<const Q: usize>(
    codes: &[Line],
    rows: PartFactors<'_>,
    queries: &[PartQuery<'_>; Q],
    estimates: &mut [Bounds; Q],
) -> [u32; Q] {
    std::array::from_fn(|query| {
        let PartQuery { tables, step, offset, limit } = queries[query];
        let mut sums = [0_u32; BLOCK_ROWS];
        for (codes, tables) in codes.iter().zip(tables) {
            for (codes, table) in codes.0.as_chunks::<16>().0.iter().zip(tables.0.as_chunks::<16>().0) {
                for (row, sum) in sums.iter_mut().enumerate() {
                    let pair = codes[row % 16].cast_unsigned();
                    let code = if row < 16 { pair & 15 } else { pair >> 4 };
                    *sum += u32::from(table[usize::from(code)].cast_unsigned());
                }
            }
        }
        let mut smaller = 0;
        for (row, &sum) in sums.iter().enumerate() {
            let estimate = rows.scale[row] * (sum as f32 * step + offset) + rows.bias[row];
            estimates[query][row] = estimate;
            smaller |= u32::from(estimate < limit) << row;
        }
        smaller
    })
}

pub(super) fn dots_of_digits(query: &[Line], lines: &[Line], rows: &[u32], out: &mut [i32]) {
    for (&row, out) in rows.iter().zip(out) {
        let row = code_row(lines, query.len().div_ceil(4), row);
        *out = 0;
        for (query, row) in query.chunks(4).zip(row) {
            for (place, query) in query.iter().enumerate() {
                for (&a, &byte) in query.0.iter().zip(&row.0) {
                    let digit = i32::from((byte.cast_unsigned() >> (2 * place)) & 3);
                    *out += i32::from(a) * (2 * digit - 3);
                }
            }
        }
    }
}

pub(super) fn hadamard(values: &mut [f32]) {
    hadamard_loops(values);
}
