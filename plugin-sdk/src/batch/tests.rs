use super::*;

#[repr(align(64))]
struct Aligned([u8; 4096]);

fn round_trip(values: &[Datum]) -> Vec<Datum> {
    let mut buffer = Aligned([0; 4096]);
    let mut writer = RowsWriter::new(&mut buffer.0, values.len());
    for value in values {
        writer.push(value).expect("fits");
    }
    let end = writer.finish().expect("complete");
    read_results(&buffer.0[..end], values.len()).expect("valid")
}

#[test]
fn results_keep_their_types_and_order() {
    for values in [
        vec![Datum::Number(1.5), Datum::Number(-2.0)],
        vec![Datum::Number(1.0), "text".into(), Datum::Null],
        vec![Datum::array([Datum::Number(1.0)])],
        vec![],
    ] {
        assert_eq!(round_trip(&values), values);
    }
}

#[test]
fn numbers_are_written_in_place() {
    let mut buffer = Aligned([0; 4096]);
    let mut writer = RowsWriter::new(&mut buffer.0, 3);
    writer.numbers().expect("fits").copy_from_slice(&[1.0, 2.0, 3.0]);
    let end = writer.finish().expect("complete");
    assert_eq!(read_results(&buffer.0[..end], 3).expect("valid")[2], Datum::Number(3.0));
}

#[test]
fn a_missing_result_a_result_too_many_and_nan_are_errors() {
    let mut buffer = Aligned([0; 4096]);
    assert!(RowsWriter::new(&mut buffer.0, 1).finish().is_err());
    let mut writer = RowsWriter::new(&mut buffer.0, 0);
    writer.push(&Datum::Null).expect("fits");
    assert!(writer.finish().is_err());
    assert!(RowsWriter::new(&mut buffer.0, 1).push(&Datum::Number(f64::NAN)).is_err());
    let mut writer = RowsWriter::new(&mut buffer.0, 1);
    writer.numbers().expect("fits")[0] = f64::INFINITY;
    let end = writer.finish().expect("complete");
    assert!(read_results(&buffer.0[..end], 1).is_err());
}

/// The values as they arrive, from memory and from an encoded document.
fn passed(values: &[Datum], check: impl Fn(&Batch<'_>)) {
    let encoded: Vec<Vec<u8>> = values.iter().map(Datum::encoded).collect();
    let stored: Vec<Value<'_>> =
        encoded.iter().map(|bytes| Value::Stored(DatumRef::new(bytes).expect("encoded"))).collect();
    let computed: Vec<Value<'_>> = values.iter().cloned().map(Value::Computed).collect();
    let mut pictures = Vec::new();
    for column in [stored, computed] {
        let mut buffer = Aligned([0xff; 4096]);
        let end = write_rows(&mut buffer.0, &[&column], values.len()).expect("fits");
        let batch = Batch::parse(&buffer.0[..end]).expect("valid");
        for (row, value) in values.iter().enumerate() {
            assert_eq!(&batch.datum(0, row).expect("a value"), value);
            assert_eq!(batch.is_null(0, row), *value == Datum::Null);
        }
        assert!(batch.datum(0, values.len()).is_err());
        check(&batch);
        pictures.push(buffer.0[..end].to_vec());
    }
    assert_eq!(pictures[0], pictures[1], "wherever they come from, they are the same bytes");
}

#[test]
fn columns_of_one_type_arrive_as_arrays_of_it() {
    passed(&[true.into(), false.into()], |batch| assert_eq!(batch.bools(0), Some(&[1, 0][..])));
    passed(&["a".into(), "".into(), "ß".into()], |batch| {
        assert_eq!([0, 1, 2, 3].map(|row| batch.str(0, row)), [Some("a"), Some(""), Some("ß"), None]);
    });
    let vector = |numbers: [f64; 2]| Datum::array(numbers.map(Datum::from));
    passed(&[vector([1.0, 2.5]), vector([0.0, -1.0])], |batch| {
        let vectors = batch.vectors(0).expect("vectors");
        assert_eq!((vectors.dims, vectors.values), (2, &[1.0, 2.5, 0.0, -1.0][..]));
    });
    passed(&[vector([1.0, 2.5]), vector([0.1, -1.0])], |batch| assert!(batch.vectors(0).is_none()));
}

#[test]
fn nulls_are_beside_the_values() {
    passed(&[Datum::Null, 1.into(), 2.into()], |batch| {
        assert_eq!((batch.numbers(0), batch.numbers_or_nulls(0)), (None, Some(&[0.0, 1.0, 2.0][..])));
    });
    passed(&[true.into(), Datum::Null], |batch| assert!(batch.bools(0).is_none()));
    passed(&["a".into(), Datum::Null], |batch| assert_eq!(batch.str(0, 1), None));
    passed(&[Datum::array([1.into()]), Datum::Null], |batch| assert!(batch.vectors(0).is_none()));
    passed(&[Datum::Null, Datum::Null], |batch| assert_eq!(batch.numbers_or_nulls(0), None));
}

#[test]
fn numbers_need_no_datum_on_either_side() {
    let mut buffer = Aligned([0; 4096]);
    let end = write_rows(&mut buffer.0, &[&[1.0, 2.0][..], &[3.0, 4.0]], 2).expect("fits");
    let batch = Batch::parse(&buffer.0[..end]).expect("valid");
    assert_eq!((batch.numbers(0), batch.numbers(1)), (Some(&[1.0, 2.0][..]), Some(&[3.0, 4.0][..])));
    let end = write_rows(&mut buffer.0, &[&[&[1.0_f32, 2.0][..], &[3.0, 4.0]][..]], 2).expect("fits");
    let batch = Batch::parse(&buffer.0[..end]).expect("valid");
    assert_eq!(batch.vectors(0).map(|vectors| vectors.values), Some(&[1.0, 2.0, 3.0, 4.0][..]));
    let mut writer = RowsWriter::new(&mut buffer.0, 2);
    writer.numbers().expect("fits").copy_from_slice(&[5.0, f64::NAN]);
    let end = writer.finish().expect("complete");
    assert!(read_numbers(&buffer.0[..end], 2).is_err());
}

#[test]
fn vectors_are_written_in_place() {
    let mut buffer = Aligned([0; 4096]);
    let mut writer = RowsWriter::new(&mut buffer.0, 2);
    writer.vectors(1).expect("fits").copy_from_slice(&[1.0, 2.0]);
    let end = writer.finish().expect("complete");
    let expected = [Datum::array([1.into()]), Datum::array([2.into()])];
    assert_eq!(read_results(&buffer.0[..end], 2).expect("valid"), expected);
}

#[test]
fn arguments_arrive_as_columns() {
    let mut buffer = Aligned([0; 4096]);
    let numbers = [Datum::Number(1.0), Datum::Number(2.0)];
    let mixed = [Datum::Null, "x".into()];
    let end = write_rows::<Datum>(&mut buffer.0, &[&numbers, &mixed], 2).expect("fits");
    let batch = Batch::parse(&buffer.0[..end]).expect("valid");
    assert_eq!(batch.numbers(0), Some(&[1.0, 2.0][..]));
    assert_eq!(batch.numbers(1), None);
    assert_eq!(batch.datum(1, 1).expect("value"), "x".into());
    assert!(batch.datum(2, 0).is_err());
}
