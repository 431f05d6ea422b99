use photondb_ipc_schema::column::Element;
use proptest::prelude::*;

use super::*;

/// What a scan is to find: every allowed row is scored, and all are sorted.
fn sorted(column: &VectorColumn, query: &Query<'_>, k: usize, allowed: &FixedBitSet) -> Vec<Scored> {
    let mut all: Vec<Scored> = allowed
        .ones()
        .map(|row| row as RowId)
        .map(|row| Scored { distance: query.distance_to(column.row(row).expect("row")), row })
        .collect();
    all.sort();
    all.truncate(k);
    all
}

fn number(at: usize) -> f32 {
    ((at * 7919 + at / 331 * 17) % 1000) as f32 / 500.0 - 1.0
}

/// Rows of all sorts: ordinary ones, equal ones, huge, tiny and zero ones, and such with one large number.
fn vectors(count: usize, dims: usize, salt: usize, huge: f32) -> Vec<f32> {
    let row = |row: usize| {
        let number = move |at: usize| number((row * dims + at) * 31 + salt);
        let scale = match row % 23 {
            3 => 0.0,
            5 => huge,
            7 => 1e-4,
            11 => 1e-25,
            13 => 1e-41,
            _ => 1.0,
        };
        let row = if row.is_multiple_of(5) { row % 200 } else { row };
        (0..dims).map(move |at| if row % 17 == 1 && at == 2 { 50.0 } else { number(at) } * scale)
    };
    (0..count).flat_map(row).collect()
}

#[test]
fn a_scan_finds_what_a_sort_finds() {
    let (dims, count) = (96, 3000);
    for (element, huge) in [(Element::F32, 1e15), (Element::F16, 1e3), (Element::I8, 1e15)] {
        let column =
            Arc::new(VectorColumn::in_memory(dims as u32, element, &vectors(count, dims, 0, huge)).expect("memory"));
        let mut allowed = FixedBitSet::with_capacity(count);
        allowed.insert_range(..);
        let all = allowed.clone();
        (0..count).filter(|row| row % 3 == 0 || (640..704).contains(row)).for_each(|row| allowed.set(row, false));
        let mut sparse = FixedBitSet::with_capacity(count);
        sparse.extend((0..count).filter(|row| row % 40 == 7));
        for metric in [Metric::Cosine, Metric::L2, Metric::Dot] {
            let scan = ExactScan::new(metric, Arc::clone(&column));
            for queries in [1, 2, 19] {
                let queries = vectors(queries, dims, 99, huge);
                for (threads, k, allowed) in
                    [(1, 10, &all), (2, 10, &allowed), (3, 1, &all), (1, 500, &allowed), (2, 10, &sparse)]
                {
                    let found = scan.nearest_on(threads, &queries, k, allowed);
                    assert_eq!(found.len(), queries.len() / dims);
                    for (query, found) in queries.chunks(dims).zip(&found) {
                        let wanted = sorted(&column, &Query::new(metric, query), k, allowed);
                        assert_eq!(found, &wanted, "{element:?} {metric:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn rows_that_came_since_are_found() {
    let (dims, count) = (512, 9000);
    let column =
        Arc::new(VectorColumn::in_memory(dims, Element::F16, &vectors(count, dims as usize, 0, 1.0)).expect("memory"));
    let scan = ExactScan::new(Metric::L2, Arc::clone(&column));
    let query = vectors(1, dims as usize, 5, 1.0);
    for rows in [700, 701, 3000, 3001, 8999, 2000, 9000] {
        let mut allowed = FixedBitSet::with_capacity(rows);
        allowed.insert_range(..);
        if rows == 8999 {
            scan.release(Duration::ZERO);
        }
        let wanted = sorted(&column, &Query::new(Metric::L2, &query), 10, &allowed);
        assert_eq!(scan.nearest_on(2, &query, 10, &allowed), [wanted], "{rows}");
    }
}

#[test]
fn nothing_is_found_among_no_rows() {
    let column = Arc::new(VectorColumn::in_memory(4, Element::F32, &[]).expect("memory"));
    let scan = ExactScan::new(Metric::Dot, column);
    assert_eq!(scan.nearest(&[0.0; 8], 3, &FixedBitSet::new()), [vec![], vec![]]);
    assert!(scan.nearest(&[], 3, &FixedBitSet::with_capacity(100)).is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_scan_is_exact(
        dims in 64_usize..200, salt in 0_usize..1_000_000, density in 1_usize..6, k in 1_usize..40, element in 0..3,
        metric in 0..3,
    ) {
        let element = [Element::F32, Element::F16, Element::I8][element as usize];
        let metric = [Metric::Cosine, Metric::L2, Metric::Dot][metric as usize];
        let count = 2200;
        let column = VectorColumn::in_memory(dims as u32, element, &vectors(count, dims, salt, 100.0)).expect("memory");
        let scan = ExactScan::new(metric, Arc::new(column));
        let mut allowed = FixedBitSet::with_capacity(count);
        allowed.extend((0..count).filter(|row| (row * salt).is_multiple_of(density)));
        let queries = vectors(3, dims, salt + 7, 100.0);
        for (query, found) in queries.chunks(dims).zip(scan.nearest_on(1, &queries, k, &allowed)) {
            prop_assert_eq!(found, sorted(&scan.column, &Query::new(metric, query), k, &allowed));
        }
    }
}
