//! The loops that all vector widths share, as a macro: a generic function could not carry the target features.

/// Defines the kernels of one element type in a module that has, for its width: the type `Vector`, the number `LANES`,
/// and `zero`, `load_f32`, `multiply_add`, `subtract_square_add`, `sum`, and the given `load` for the element.
macro_rules! products {
    (
        features: $features:literal, element: $element:ty, load: $load:ident,
        $dot:ident, $l2_squared:ident, $norm_squared:ident, $dot_and_norm:ident
    ) => {
        products!(@pair $features, $element, $load, multiply_add, $dot);
        products!(@pair $features, $element, $load, subtract_square_add, $l2_squared);

        #[target_feature(enable = $features)]
        pub(super) fn $norm_squared(row: &[$element]) -> f32 {
            let (blocks, rest) = row.as_chunks::<LANES>();
            let (fours, ones) = blocks.as_chunks::<4>();
            let mut sums = [zero(); 4];
            for four in fours {
                for (sum, block) in sums.iter_mut().zip(four) {
                    let values = $load(block);
                    *sum = multiply_add(*sum, values, values);
                }
            }
            let rest = padded(rest);
            for block in ones.iter().chain(&rest) {
                let values = $load(block);
                sums[0] = multiply_add(sums[0], values, values);
            }
            sum_of_four(sums)
        }

        #[target_feature(enable = $features)]
        pub(super) fn $dot_and_norm(query: &[f32], row: &[$element]) -> (f32, f32) {
            let length = query.len().min(row.len());
            let (query_blocks, query_rest) = query[..length].as_chunks::<LANES>();
            let (row_blocks, row_rest) = row[..length].as_chunks::<LANES>();
            let (query_pairs, query_ones) = query_blocks.as_chunks::<2>();
            let (row_pairs, row_ones) = row_blocks.as_chunks::<2>();
            let (mut dots, mut norms) = ([zero(); 2], [zero(); 2]);
            for (query, row) in query_pairs.iter().zip(row_pairs) {
                for i in 0..2 {
                    let values = $load(&row[i]);
                    dots[i] = multiply_add(dots[i], load_f32(&query[i]), values);
                    norms[i] = multiply_add(norms[i], values, values);
                }
            }
            let (query_rest, row_rest) = (padded(query_rest), padded(row_rest));
            let ones = query_ones.iter().zip(row_ones).chain(query_rest.iter().zip(&row_rest));
            for (query, row) in ones {
                let values = $load(row);
                dots[0] = multiply_add(dots[0], load_f32(query), values);
                norms[0] = multiply_add(norms[0], values, values);
            }
            // The excess of a longer row counts for its length only.
            (sum(add(dots[0], dots[1])), sum(add(norms[0], norms[1])) + $norm_squared(&row[length..]))
        }
    };

    (@pair $features:literal, $element:ty, $load:ident, $accumulate:ident, $one:ident) => {
        #[target_feature(enable = $features)]
        pub(super) fn $one(query: &[f32], row: &[$element]) -> f32 {
            let length = query.len().min(row.len());
            let (query_blocks, query_rest) = query[..length].as_chunks::<LANES>();
            let (row_blocks, row_rest) = row[..length].as_chunks::<LANES>();
            let (query_fours, query_ones) = query_blocks.as_chunks::<4>();
            let (row_fours, row_ones) = row_blocks.as_chunks::<4>();
            // Four sums, because a fused multiply-add takes four cycles and two can start in each.
            let mut sums = [zero(); 4];
            for (query, row) in query_fours.iter().zip(row_fours) {
                for i in 0..4 {
                    sums[i] = $accumulate(sums[i], load_f32(&query[i]), $load(&row[i]));
                }
            }
            let (query_rest, row_rest) = (padded(query_rest), padded(row_rest));
            let ones = query_ones.iter().zip(row_ones).chain(query_rest.iter().zip(&row_rest));
            for (query, row) in ones {
                sums[0] = $accumulate(sums[0], load_f32(query), $load(row));
            }
            sum_of_four(sums)
        }
    };
}

/// A block that starts with `rest`, which is shorter, and goes on with zeros; none for an empty rest.
pub(super) fn padded<T: Copy + Default, const LANES: usize>(rest: &[T]) -> Option<[T; LANES]> {
    if rest.is_empty() {
        return None;
    }
    let mut block = [T::default(); LANES];
    for (to, from) in block.iter_mut().zip(rest) {
        *to = *from;
    }
    Some(block)
}
