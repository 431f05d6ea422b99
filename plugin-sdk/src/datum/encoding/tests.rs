use proptest::prelude::*;

use super::*;
use crate::datum::{Time, Typed};

/// Values of every type, nested a little, with numbers of every form.
pub(crate) fn datums() -> impl Strategy<Value = Datum> {
    let number = prop_oneof![
        any::<i32>().prop_map(f64::from),
        any::<f32>().prop_filter("finite", |number| number.is_finite()).prop_map(f64::from),
        any::<f64>().prop_filter("finite", |number| number.is_finite()),
        prop::sample::select(vec![
            0.0,
            -0.0,
            MAX_INTEGER,
            -MAX_INTEGER,
            MAX_INTEGER + 2.0,
            127.0,
            128.0,
            -128.0,
            -129.0
        ]),
    ];
    let time = (-1e11..1e11_f64, -1439..1440_i16);
    let leaf = prop_oneof![
        Just(Datum::Null),
        any::<bool>().prop_map(Datum::from),
        number.clone().prop_map(Datum::Number),
        ".{0,20}".prop_map(Datum::from),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|bytes| Datum::Binary(bytes.into())),
        ("[a-c][a-z0-9_]{0,6}", prop::collection::vec(any::<u8>(), 0..=128), ".{0,20}")
            .prop_filter_map("a name", |(name, key, text)| Some(Typed::new(name, key, text).ok()?.into())),
        time.prop_map(|(seconds, offset)| Datum::Time(Time::new(seconds, offset).unwrap())),
        prop::collection::vec(number, 0..80).prop_map(|numbers| Datum::array(numbers.into_iter().map(Datum::Number))),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Datum::from),
            prop::collection::vec((".{0,8}", inner), 0..8).prop_map(Datum::object),
        ]
    })
}

/// `==` holds two times of different zones, and 0 and -0, to be equal: the encoding may not mix those up.
fn exactly(value: &Datum) -> String {
    format!("{value:?}")
}

proptest! {
    #[test]
    fn values_come_back(value in datums()) {
        let bytes = value.encoded();
        let back = Datum::decode(&bytes).unwrap();
        prop_assert_eq!(exactly(&back), exactly(&value));
        prop_assert_eq!(back.encoded(), bytes);
    }

    #[test]
    fn json_in_place_is_that_of_the_value(value in datums()) {
        let (bytes, mut text) = (value.encoded(), b"before".to_vec());
        DatumRef::new(&bytes).unwrap().write_json(&mut text).unwrap();
        prop_assert_eq!(std::str::from_utf8(&text).unwrap(), format!("before{}", value.to_json_string()));
    }

    #[test]
    fn parts_are_found_in_place(value in datums()) {
        let bytes = value.encoded();
        let view = DatumRef::new(&bytes).unwrap();
        prop_assert_eq!(view.as_number(), value.as_number());
        prop_assert_eq!(view.as_str(), value.as_str());
        if let Datum::Object(object) = &value {
            prop_assert_eq!(view.len(), Some(object.len()));
            for (name, field) in object.iter() {
                prop_assert_eq!(&view.get(name).unwrap().to_datum().unwrap(), field);
            }
            prop_assert!(view.get("no such field").is_none());
        }
    }

    #[test]
    fn arrays_of_numbers_are_read_as_f32(numbers in prop::collection::vec(-1e30..1e30_f64, 0..50)) {
        let bytes = Datum::array(numbers.iter().map(|number| Datum::Number(*number))).encoded();
        let mut out = vec![1.0];
        prop_assert!(DatumRef::new(&bytes).unwrap().f32s(&mut out));
        prop_assert_eq!(&out[1..], numbers.iter().map(|number| *number as f32).collect::<Vec<_>>());
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        probe(&bytes);
        probe(&[&[FORMAT_VERSION], &bytes[..]].concat());
    }

    #[test]
    fn damaged_bytes_never_panic(value in datums(), at in any::<prop::sample::Index>(), flip in 1..=255_u8) {
        let mut bytes = value.encoded();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        probe(&bytes);
        bytes.truncate(at);
        probe(&bytes);
    }
}

/// Everything that is readable of `bytes`; what reads as a datum has to be encodable again.
fn probe(bytes: &[u8]) {
    let Ok(view) = DatumRef::new(bytes) else { return };
    let _ = (view.kind(), view.len(), view.get("a"), view.as_number(), view.as_str(), view.f32s(&mut Vec::new()));
    let fields = view.fields().map(|fields| fields.map(|field| field.map(drop)).collect::<Vec<_>>());
    let mut text = Vec::new();
    let written = view.write_json(&mut text);
    match view.to_datum() {
        Ok(value) => {
            assert_eq!(exactly(&Datum::decode(&value.encoded()).unwrap()), exactly(&value));
            assert_eq!(written, Ok(()));
            assert_eq!(String::from_utf8(text).unwrap(), value.to_json_string());
            assert_eq!(fields.map(|fields| fields.len()).ok(), value.as_object().map(|object| object.len()));
        }
        Err(error) => assert_eq!(written, Err(error)),
    }
}

#[test]
fn bytes_are_as_specified() {
    let golden = |value: Datum, bytes: &[u8]| assert_eq!(value.encoded(), bytes, "{value:?}");
    golden(Datum::Null, &[1, 0]);
    golden(true.into(), &[1, 2]);
    golden(0.into(), &[1, 3]);
    golden((-1).into(), &[1, 3, 0xff]);
    golden(128.into(), &[1, 3, 0x80, 0]);
    golden(0.5.into(), &[1, 4, 0, 0, 0, 0, 0, 0, 0xe0, 0x3f]);
    golden("é".into(), &[1, 5, 0xc3, 0xa9]);
    golden(Datum::Binary([7_u8, 8][..].into()), &[1, 6, 7, 8]);
    golden(Datum::Time(Time::new(1.0, -60).unwrap()), &[1, 7, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0xc4, 0xff]);
    golden(Datum::array([]), &[1, 0x10, 0]);
    golden(Datum::array([1.into(), 0.5.into()]), &[1, 8, 0, 0, 0x80, 0x3f, 0, 0, 0, 0x3f]);
    golden(Datum::array([0.1.into()]), &[1, 9, 0x9a, 0x99, 0x99, 0x99, 0x99, 0x99, 0xb9, 0x3f]);
    golden(Datum::array([Datum::Null, 1.into()]), &[1, 0x10, 2, 1, 3, 0, 3, 1]);
    golden(
        Datum::object([("b", Datum::Null), ("aa", "x".into())]),
        &[1, 0x20, 2, 2, 3, 2, 3, b'a', b'a', b'b', 5, b'x', 0],
    );
}

#[test]
fn large_containers_have_wider_tables() {
    for count in [255, 256, 70_000] {
        let value = Datum::array((0..count).map(|_| Datum::Null));
        assert_eq!(Datum::decode(&value.encoded()).unwrap(), value);
        let value = Datum::object((0..count).map(|at| (format!("field {at}"), at)));
        let bytes = value.encoded();
        assert_eq!(Datum::decode(&bytes).unwrap(), value);
        assert_eq!(DatumRef::new(&bytes).unwrap().get("field 77").and_then(|field| field.as_number()), Some(77.0));
    }
}

#[test]
fn depth_is_bounded() {
    let nest = |levels: usize| (0..levels).fold(Datum::Null, |inner, _| Datum::array([inner]));
    assert!(!nest(MAX_DEPTH).exceeds_depth(MAX_DEPTH) && nest(MAX_DEPTH + 1).exceeds_depth(MAX_DEPTH));
    assert!(Datum::decode(&nest(MAX_DEPTH).encoded()).is_ok());
    let (deep, mut text) = (nest(MAX_DEPTH + 1).encoded(), Vec::new());
    assert_eq!(Datum::decode(&deep), Err(DecodeError::TooDeep));
    assert_eq!(DatumRef::new(&deep).unwrap().write_json(&mut text), Err(DecodeError::TooDeep));
}

#[test]
fn other_versions_are_refused() {
    assert_eq!(Datum::decode(&[2, 0]), Err(DecodeError::Version { found: 2 }));
    assert_eq!(Datum::decode(&[]), Err(DecodeError::Damaged("it is empty")));
}

proptest! {
    #[test]
    fn an_object_of_encoded_fields_is_the_encoded_object(fields in prop::collection::vec((".{0,300}", datums()), 0..8)) {
        let object = Datum::object(fields);
        let parts: Vec<(String, Vec<u8>)> = object.as_object().unwrap().iter().map(|(name, value)| {
            let mut part = Vec::new();
            DatumRef::new(&value.encoded()).unwrap().write_part(&mut part);
            (name.to_string(), part)
        }).collect();
        let fields: Vec<(&str, DatumRef<'_>)> =
            parts.iter().map(|(name, part)| (name.as_str(), DatumRef::from_part(part).unwrap())).collect();
        let mut out = Vec::new();
        Datum::encode_fields(&fields, &mut out);
        prop_assert_eq!(out, object.encoded());
    }

    #[test]
    fn values_in_place_compare_as_values(a in datums(), b in datums()) {
        let (left, right) = (a.encoded(), b.encoded());
        let order = DatumRef::new(&left).unwrap().compare(&DatumRef::new(&right).unwrap());
        prop_assert_eq!(order, Some(a.compare(&b)));
    }
}
