//! Keys whose bytes sort as ReQL orders the values.
//!
//! | value | bytes |
//! |---|---|
//! | below everything | `01` (only in bounds of ranges) |
//! | array | `10`, elements, `00` |
//! | false, true | `20`, `21` |
//! | null | `30` |
//! | number | `40`, f64 big-endian: sign bit flipped when positive, all bits when negative; -0 as 0 |
//! | object | `50`, for each field `01`, name as in strings, value; `00` |
//! | binary | `60`, bytes with `00` as `00 ff`, then `00 00` |
//! | time | `70`, seconds as in numbers; the zone is not part of the order |
//! | of a plugin's type | `58` if the name of the type is before "binary", `68` before "time", `78` behind; name and order key as binary |
//! | string | `80`, as binary |
//! | above everything | `fe` (only in bounds of ranges) |
//!
//! No key is the beginning of another one, so keys can be followed by others, and `ff` behind a key sorts after
//! everything that follows it.
//!
//! An entry of an index has the key: number of the index (u32 big-endian), index key, primary key, occurrence (u16), length
//! of the index key (u16). Its value is the encoded index value. Index keys are cut off after [`MAX_INDEX_KEY`] bytes: entries whose index
//! keys are cut alike lie together, in the order of their primary keys, and a scan sorts and filters them by value.

use std::cmp::Ordering;
use std::ops::Bound;

use photondb_plugin_sdk::Datum;

use super::error::StoreError;

/// The longest string that is a primary key, in bytes.
pub const MAX_KEY_STRING: usize = 127;
/// The longest primary key of any type, encoded. Bounds what an index entry takes.
const MAX_PRIMARY_KEY: usize = 512;
/// How much of an index key orders the entries on the disk.
pub(super) const MAX_INDEX_KEY: usize = 1024;

const END: u8 = 0x00;
const FIELD: u8 = 0x01;
const MINIMUM: u8 = 0x01;
const ARRAY: u8 = 0x10;
const FALSE: u8 = 0x20;
const TRUE: u8 = 0x21;
const NULL: u8 = 0x30;
const NUMBER: u8 = 0x40;
const OBJECT: u8 = 0x50;
const TYPED_BEFORE_BINARY: u8 = 0x58;
const BINARY: u8 = 0x60;
const TYPED_BEFORE_TIME: u8 = 0x68;
const TIME: u8 = 0x70;
const TYPED_BEHIND_TIME: u8 = 0x78;
const STRING: u8 = 0x80;
const MAXIMUM: u8 = 0xfe;
const AFTER: u8 = 0xff;

/// An end of a range: a value, or one that lies below or above all values (`r.minval`, `r.maxval`), also in arrays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyEdge {
    /// Below all values.
    Minimum,
    /// A value.
    Value(Datum),
    /// An array that has edges among its elements.
    Array(Vec<KeyEdge>),
    /// Above all values.
    Maximum,
}

impl From<Datum> for KeyEdge {
    fn from(value: Datum) -> Self {
        Self::Value(value)
    }
}

/// The values between two ends, in ReQL's order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatumRange {
    /// Where it begins.
    pub lower: Bound<KeyEdge>,
    /// Where it ends.
    pub upper: Bound<KeyEdge>,
}

impl DatumRange {
    /// All values.
    #[must_use]
    pub fn all() -> Self {
        Self { lower: Bound::Unbounded, upper: Bound::Unbounded }
    }

    /// One value.
    #[must_use]
    pub fn only(value: Datum) -> Self {
        Self { lower: Bound::Included(value.clone().into()), upper: Bound::Included(value.into()) }
    }

    /// Whether the value lies in the range.
    #[must_use]
    pub fn contains(&self, value: &Datum) -> bool {
        let above = match &self.lower {
            Bound::Included(edge) => edge.compare(value) != Ordering::Greater,
            Bound::Excluded(edge) => edge.compare(value) == Ordering::Less,
            Bound::Unbounded => true,
        };
        let below = match &self.upper {
            Bound::Included(edge) => edge.compare(value) != Ordering::Less,
            Bound::Excluded(edge) => edge.compare(value) == Ordering::Greater,
            Bound::Unbounded => true,
        };
        above && below
    }

    /// The bytes of the keys in the range behind `prefix`: the first, and the first behind. Keys may be cut off to
    /// `limit` bytes: then values near the ends have to be checked with [`contains`](Self::contains).
    pub(super) fn key_range(&self, prefix: &[u8], limit: usize) -> (Vec<u8>, Vec<u8>) {
        let key = |edge: &KeyEdge, place: Place| {
            let mut key = prefix.to_vec();
            edge.encode(&mut key);
            let longest = prefix.len().saturating_add(limit);
            let is_cut = key.len() > longest;
            key.truncate(longest);
            match place {
                Place::Behind => key.push(AFTER),
                // Values on both sides of the edge are cut to the same key.
                Place::BehindUnlessCut if !is_cut => key.push(AFTER),
                Place::BeforeUnlessCut if is_cut => key.push(AFTER),
                _ => {}
            }
            key
        };
        let start = match &self.lower {
            Bound::Included(edge) => key(edge, Place::Before),
            Bound::Excluded(edge) => key(edge, Place::BehindUnlessCut),
            Bound::Unbounded => prefix.to_vec(),
        };
        let end = match &self.upper {
            Bound::Included(edge) => key(edge, Place::Behind),
            Bound::Excluded(edge) => key(edge, Place::BeforeUnlessCut),
            Bound::Unbounded => [prefix, &[AFTER]].concat(),
        };
        (start, end)
    }
}

/// On which side of the keys of an edge's own value an end of a range lies.
#[derive(Clone, Copy)]
enum Place {
    Before,
    BeforeUnlessCut,
    Behind,
    BehindUnlessCut,
}

impl KeyEdge {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Minimum => out.push(MINIMUM),
            Self::Value(value) => encode(value, out),
            Self::Array(edges) => {
                out.push(ARRAY);
                edges.iter().for_each(|edge| edge.encode(out));
                out.push(END);
            }
            Self::Maximum => out.push(MAXIMUM),
        }
    }

    fn compare(&self, value: &Datum) -> Ordering {
        match (self, value) {
            (Self::Minimum, _) => Ordering::Less,
            (Self::Maximum, _) => Ordering::Greater,
            (Self::Value(edge), _) => edge.compare(value),
            (Self::Array(edges), Datum::Array(elements)) => edges
                .iter()
                .zip(elements.iter())
                .map(|(edge, element)| edge.compare(element))
                .find(|order| order.is_ne())
                .unwrap_or(edges.len().cmp(&elements.len())),
            // Arrays come first among the types.
            (Self::Array(_), _) => Ordering::Less,
        }
    }
}

/// Appends the key of a value.
fn encode(value: &Datum, out: &mut Vec<u8>) {
    match value {
        Datum::Array(elements) => {
            out.push(ARRAY);
            elements.iter().for_each(|element| encode(element, out));
            out.push(END);
        }
        Datum::Bool(value) => out.push(if *value { TRUE } else { FALSE }),
        Datum::Null => out.push(NULL),
        Datum::Number(number) => {
            out.push(NUMBER);
            out.extend_from_slice(&number_key(*number));
        }
        Datum::Object(object) => {
            out.push(OBJECT);
            for (name, value) in object.iter() {
                out.push(FIELD);
                encode_bytes(name.as_bytes(), out);
                encode(value, out);
            }
            out.push(END);
        }
        Datum::Binary(bytes) => {
            out.push(BINARY);
            encode_bytes(bytes, out);
        }
        Datum::Time(time) => {
            out.push(TIME);
            out.extend_from_slice(&number_key(time.epoch_seconds()));
        }
        Datum::Typed(typed) => {
            out.push(match typed.name() {
                name if name < "binary" => TYPED_BEFORE_BINARY,
                name if name < "time" => TYPED_BEFORE_TIME,
                _ => TYPED_BEHIND_TIME,
            });
            encode_bytes(typed.name().as_bytes(), out);
            encode_bytes(typed.order_key(), out);
        }
        Datum::String(text) => {
            out.push(STRING);
            encode_bytes(text.as_bytes(), out);
        }
    }
}

fn number_key(number: f64) -> [u8; 8] {
    const SIGN: u64 = 1 << 63;
    // Adding zero turns -0 into 0.
    let bits = (number + 0.0).to_bits();
    (if bits & SIGN == 0 { bits | SIGN } else { !bits }).to_be_bytes()
}

fn encode_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        out.push(*byte);
        if *byte == 0 {
            out.push(0xff);
        }
    }
    out.extend_from_slice(&[0, 0]);
}

/// The key that a document is stored under.
pub(super) fn primary_key(key: &Datum) -> Result<Vec<u8>, StoreError> {
    check_primary_key(key)?;
    let mut out = Vec::new();
    encode(key, &mut out);
    if out.len() > MAX_PRIMARY_KEY {
        return Err(StoreError::KeyTooLong { key: key.clone() });
    }
    Ok(out)
}

fn check_primary_key(key: &Datum) -> Result<(), StoreError> {
    match key {
        Datum::Number(_) | Datum::Bool(_) | Datum::Time(_) | Datum::Binary(_) | Datum::Typed(_) => Ok(()),
        Datum::String(text) if text.len() > MAX_KEY_STRING => Err(StoreError::KeyTooLong { key: key.clone() }),
        Datum::String(text) if text.contains('\0') => Err(StoreError::KeyZeroByte { key: key.clone() }),
        Datum::String(_) => Ok(()),
        Datum::Array(elements) => elements.iter().try_for_each(check_primary_key),
        Datum::Null | Datum::Object(_) => Err(StoreError::KeyType { found: key.clone() }),
    }
}

/// Whether a value can be found by an index: no null and no object, also not in arrays.
fn is_indexable(value: &Datum) -> bool {
    match value {
        Datum::Null | Datum::Object(_) => false,
        Datum::Array(elements) => elements.iter().all(is_indexable),
        _ => true,
    }
}

/// The first bytes of all entries of an index.
pub(super) fn index_prefix(number: u32) -> [u8; 4] {
    number.to_be_bytes()
}

/// One entry of an index: key and value.
pub(super) type IndexEntry = (Vec<u8>, Vec<u8>);

/// The entries of a document in an index, given what the index's function says of it.
pub(super) fn index_entries(number: u32, multi: bool, value: &Datum, primary_key: &[u8]) -> Vec<IndexEntry> {
    match value {
        Datum::Array(elements) if multi => {
            let mut entries: Vec<IndexEntry> = Vec::with_capacity(elements.len());
            let mut sorted: Vec<&Datum> = elements.iter().filter(|element| is_indexable(element)).collect();
            sorted.sort();
            let mut occurrence = 0_u16;
            for (at, element) in sorted.iter().enumerate() {
                // An element that occurs several times is found several times.
                let repeats = at > 0 && sorted[at - 1] == *element;
                occurrence = if repeats { occurrence.saturating_add(1) } else { 0 };
                entries.push(index_entry(number, element, primary_key, occurrence));
            }
            entries
        }
        value if is_indexable(value) => vec![index_entry(number, value, primary_key, 0)],
        _ => Vec::new(),
    }
}

fn index_entry(number: u32, value: &Datum, primary_key: &[u8], occurrence: u16) -> IndexEntry {
    let mut key = index_prefix(number).to_vec();
    encode(value, &mut key);
    key.truncate(4 + MAX_INDEX_KEY);
    let length = (key.len() - 4) as u16;
    key.extend_from_slice(primary_key);
    key.extend_from_slice(&occurrence.to_be_bytes());
    key.extend_from_slice(&length.to_be_bytes());
    (key, value.encoded())
}

/// The parts of an entry's key: index key (cut off, perhaps) and primary key.
pub(super) fn split_entry(key: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, length) = key.split_last_chunk::<2>()?;
    let (rest, _occurrence) = rest.split_last_chunk::<2>()?;
    rest.get(4..)?.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

#[cfg(test)]
mod tests {
    use photondb_plugin_sdk::datum::{Time, Typed};
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn values() -> impl Strategy<Value = Datum> {
        let leaf = prop_oneof![
            Just(Datum::Null),
            any::<bool>().prop_map(Datum::from),
            (-3..3_i32).prop_map(Datum::from),
            any::<f64>().prop_filter("finite", |number| number.is_finite()).prop_map(Datum::Number),
            Just(Datum::Number(-0.0)),
            "[a\0\u{1}\u{7f}é]{0,4}".prop_map(Datum::from),
            prop::collection::vec(prop::sample::select(vec![0, 1, 0xfe, 0xff_u8]), 0..4)
                .prop_map(|bytes| Datum::Binary(bytes.into())),
            (-1e10..1e10_f64).prop_map(|seconds| Datum::Time(Time::new(seconds, 60).unwrap())),
            (
                prop::sample::select(vec!["a", "az", "cidr", "u"]),
                prop::collection::vec(prop::sample::select(vec![0, 1, 0xfe, 0xff_u8]), 0..4),
            )
                .prop_map(|(name, key)| Typed::new(name, key, "x").unwrap().into()),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Datum::from),
                prop::collection::vec(("[ab\0]{0,2}", inner), 0..3).prop_map(Datum::object),
            ]
        })
    }

    fn key(value: &Datum) -> Vec<u8> {
        let mut out = Vec::new();
        encode(value, &mut out);
        out
    }

    proptest! {
        #[test]
        fn keys_sort_as_values(a in values(), b in values()) {
            prop_assert_eq!(key(&a).cmp(&key(&b)), a.cmp(&b));
        }

        #[test]
        fn no_key_begins_another(a in values(), b in values()) {
            prop_assert!(a == b || !key(&a).starts_with(&key(&b)));
        }

        #[test]
        fn ranges_of_keys_hold_the_values(value in values(), low in values(), high in values(), limit in 1..20_usize) {
            for lower in [Bound::Included(KeyEdge::from(low.clone())), Bound::Excluded(low.into()), Bound::Unbounded] {
                for upper in [Bound::Included(KeyEdge::from(high.clone())), Bound::Excluded(high.clone().into()), Bound::Unbounded] {
                    let range = DatumRange { lower: lower.clone(), upper };
                    let (start, end) = range.key_range(b"p", limit);
                    let mut stored = [b"p", &key(&value)[..]].concat();
                    let is_cut = stored.len() > 1 + limit;
                    stored.truncate(1 + limit);
                    stored.extend_from_slice(&[STRING, b'k', 0, 0]);
                    let inside = start <= stored && stored < end;
                    prop_assert!(inside || !range.contains(&value), "{range:?} misses {value:?}");
                    let exact = [&range.lower, &range.upper].iter().all(|bound| match bound {
                        Bound::Included(KeyEdge::Value(edge)) | Bound::Excluded(KeyEdge::Value(edge)) => key(edge).len() <= limit,
                        _ => true,
                    });
                    prop_assert!(is_cut || !exact || inside == range.contains(&value), "{range:?} and {value:?}");
                }
            }
        }
    }

    #[test]
    fn edges_in_arrays_lie_around_all_elements() {
        let around = |first: &str| DatumRange {
            lower: Bound::Included(KeyEdge::Array(vec![Datum::from(first).into(), KeyEdge::Minimum])),
            upper: Bound::Excluded(KeyEdge::Array(vec![Datum::from(first).into(), KeyEdge::Maximum])),
        };
        let (start, end) = around("a").key_range(&[], usize::MAX);
        for (value, inside) in [
            (Datum::array(["a".into()]), false),
            (Datum::array(["a".into(), Datum::array([])]), true),
            (Datum::array(["a".into(), "z".into(), "z".into()]), true),
            (Datum::array(["b".into(), 1.into()]), false),
            (Datum::from("a"), false),
        ] {
            assert_eq!((start.clone()..end.clone()).contains(&key(&value)), inside, "{value:?}");
            assert_eq!(around("a").contains(&value), inside, "{value:?}");
        }
    }

    #[test]
    fn primary_keys_are_checked() {
        let refused = |key: Datum| primary_key(&key).unwrap_err().to_string();
        assert!(refused(Datum::Null).ends_with("(got type NULL):\nnull"));
        assert!(refused(Datum::array([Datum::object([("a", 1)])])).contains("got type OBJECT"));
        assert!(refused("a\0".into()).contains("`\\u0000`"));
        assert_eq!(
            refused("x".repeat(128).into()),
            format!("Primary key too long (max 127 characters): {:?}", "x".repeat(128))
        );
        assert!(primary_key(&"x".repeat(127).into()).is_ok());
        assert!(refused(Datum::array((0..9).map(|_| "x".repeat(100).into()))).starts_with("Primary key too long"));
    }

    #[test]
    fn entries_come_apart_again() {
        let long = Datum::from("x".repeat(5000));
        for value in [Datum::from(1), long] {
            let entries = index_entries(7, false, &value, b"pk");
            let (index_key, primary) = split_entry(&entries[0].0).unwrap();
            assert_eq!(primary, b"pk");
            assert_eq!(index_key.len(), key(&value).len().min(MAX_INDEX_KEY));
        }
        let multi = Datum::array([2.into(), 1.into(), 2.into(), Datum::Null]);
        assert_eq!(index_entries(7, true, &multi, b"pk").len(), 3);
        assert_eq!(index_entries(7, false, &multi, b"pk").len(), 0);
        assert_eq!(split_entry(&[0; 7]), None);
    }
}
