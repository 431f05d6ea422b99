use photondb_plugin_sdk::datum::{Time, Typed};
use photondb_plugin_sdk::kinds::storage::{FieldRange, Selection};
use proptest::prelude::*;

use super::*;

fn values() -> impl Strategy<Value = Datum> {
    let leaf = prop_oneof![
        3 => (-5..5_i32).prop_map(Datum::from),
        2 => prop::sample::select(vec![0.5, -0.0, 1e300, -9_007_199_254_740_993.0, 9.3e18, 0.1]).prop_map(Datum::Number),
        1 => Just(Datum::Null),
        1 => any::<bool>().prop_map(Datum::from),
        1 => "[a-c]{0,2}".prop_map(Datum::from),
        1 => "x{60,70}é".prop_map(Datum::from),
        1 => (0..100_u32, -1439..1440_i16).prop_map(|(at, zone)| Datum::Time(Time::new(f64::from(at) / 4.0, zone).unwrap())),
        1 => prop::collection::vec(any::<u8>(), 0..4).prop_map(|bytes| Datum::Binary(bytes.into())),
        1 => Just(Typed::new("decimal", [1], "1").unwrap().into()),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Datum::from),
            prop::collection::vec(("[ab]", inner), 0..3).prop_map(Datum::object),
        ]
    })
}

/// Documents; of each field most values are of one type.
fn stored() -> impl Strategy<Value = Vec<u8>> {
    let field = prop_oneof![
        4 => (Just("n"), (0..1000_i32).prop_map(Datum::from)),
        2 => (Just("b"), any::<bool>().prop_map(Datum::from)),
        2 => (Just("s"), "[a-d]{1,2}".prop_map(Datum::from)),
        1 => (prop::sample::select(vec!["n", "m", "", "é"]), values()),
    ];
    prop_oneof![
        8 => prop::collection::vec(field, 0..5).prop_map(|fields| Datum::object(fields).encoded()),
        1 => values().prop_map(|value| value.encoded()),
        1 => prop::collection::vec(any::<u8>(), 0..20),
        // Documents of which each number could be written in fewer bytes.
        1 => Just(vec![1, 0x20, 1, 1, 3, b'n', 3, 1, 0]),
    ]
}

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    prop::collection::btree_map(prop::collection::vec(prop::sample::select(vec![0, 1, 255_u8]), 1..6), stored(), 1..80)
        .prop_map(|entries| entries.into_iter().collect())
}

proptest! {
    #[test]
    fn rows_come_back_byte_for_byte(entries in entries()) {
        let (head, body) = pack_all(&entries);
        prop_assert_eq!(read_all(&head, &body), Ok(entries));
    }

    #[test]
    fn statistics_allow_nothing_that_a_row_does_not(entries in entries(), lower in values(), field in prop::sample::select(vec!["n", "m", "s"])) {
        let lower = Some(lower).filter(FieldRange::takes).unwrap_or_default();
        let (head, _) = pack(0, &entries);
        use std::ops::Bound::{Excluded, Included, Unbounded};
        for (lower, upper) in [
            (Included(lower.clone()), Unbounded),
            (Unbounded, Excluded(lower.clone())),
            (Included(lower.clone()), Included(lower.clone())),
            (Excluded(lower), Unbounded),
        ] {
            let filter = vec![FieldRange { field: field.into(), lower, upper }];
            let selection = Selection { fields: None, filter };
            if head.is_excluded(&selection) {
                prop_assert!(entries.iter().all(|(_, value)| selection.excludes(value)), "{selection:?} {:?}", head.columns);
            }
        }
        prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
    }

    #[test]
    fn damaged_bytes_are_an_error(entries in entries(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (head, body) = pack_all(&entries);
        for is_head in [true, false] {
            let (mut head, mut body) = (head.clone(), body.clone());
            let bytes = if is_head { &mut head } else { &mut body };
            let at = at.index(bytes.len());
            if bytes[at] != byte {
                bytes[at] = byte;
                prop_assert!(read_all(&head, &body).is_err());
            }
        }
    }

    #[test]
    fn wrong_bytes_with_right_checksums_are_no_panic(
        entries in entries(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let (mut head, body) = pack(0, &entries);
        let mut again = Vec::new();
        let mut sections = vec![head.keys.clone(), head.whole.clone()];
        sections.extend(head.columns.iter().map(|column| column.section.clone()));
        for (number, section) in sections.into_iter().enumerate() {
            let mut bytes = body[section.start..section.end - 4].to_vec();
            for (at, byte) in changes.iter().skip(number % 2) {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            let start = again.len();
            again.extend_from_slice(&bytes);
            seal(&mut again, start);
        }
        let _ = read_all(&head.encode(), &again);
        head.rows = head.rows.saturating_mul(2);
        let _ = read_all(&head.encode(), &body);
        let mut encoded = head.encode();
        encoded.truncate(encoded.len() - 4);
        for (at, byte) in changes {
            let at = at.index(encoded.len());
            encoded[at] = byte;
        }
        seal(&mut encoded, 0);
        let _ = read_all(&encoded, &body);
    }
}

#[test]
fn documents_with_rare_fields_are_kept_whole() {
    let entries: Vec<Entry> = (0..1000_u32)
        .map(|number| {
            let rare = format!("only {number}");
            let document = Datum::object([("often", Datum::from(number)), (rare.as_str(), Datum::Null)]);
            (number.to_be_bytes().to_vec(), document.encoded())
        })
        .collect();
    let (head, body) = pack(7, &entries);
    assert_eq!((head.columns.len(), head.whole_rows), (MAX_COLUMNS, 1000 - MAX_COLUMNS as u32 + 1));
    assert_eq!(read_all(&head.encode(), &body), Ok(entries));
}

#[test]
fn numbers_and_words_take_few_bytes() {
    let entries: Vec<Entry> = (0..4096_u32)
        .map(|number| {
            let word = ["eins", "zwei", "drei"][number as usize % 3];
            let document = Datum::object([("number", Datum::from(number)), ("word", word.into())]);
            (number.to_be_bytes().to_vec(), document.encoded())
        })
        .collect();
    let (head, body) = pack(0, &entries);
    let stored = head.encode().len() + body.len();
    assert!(stored * 20 < head.raw_bytes as usize, "{stored} of {}", head.raw_bytes);
    let number = head.column("number").expect("a column");
    assert_eq!((number.statistics.present, number.statistics.nulls), (4096, 0));
    assert_eq!((&number.statistics.least, &number.statistics.greatest), (&Some(0.into()), &Some(4095.into())));
}

/// The bytes of a chunk of version 1, in hexadecimal digits.
#[test]
fn chunks_of_version_1_are_read() {
    let entries = [
        (b"a".to_vec(), Datum::object([("n", Datum::from(1)), ("s", "x".into())]).encoded()),
        (b"ab".to_vec(), Datum::object([("n", Datum::Null)]).encoded()),
        (b"b".to_vec(), b"no document".to_vec()),
    ];
    let (head, body) = pack_all(&entries);
    let file = |name| std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/chunk/golden").join(name);
    if std::env::var_os("PHOTONDB_BLESS").is_some() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
        std::fs::write(file("head.hex"), hex(&head)).expect("a file");
        std::fs::write(file("body.hex"), hex(&body)).expect("a file");
    }
    let read = |name| -> Vec<u8> {
        let text = std::fs::read_to_string(file(name)).expect("a file");
        let digits = text.trim().as_bytes().chunks(2);
        let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
        digits.map(byte).collect()
    };
    // What a codec writes may change with its version; what was written is read for ever.
    let hint = "the format changed: give it a new version, or run the test with PHOTONDB_BLESS=1";
    assert_eq!(read_all(&read("head.hex"), &read("body.hex")), Ok(entries.to_vec()), "{hint}");
}
