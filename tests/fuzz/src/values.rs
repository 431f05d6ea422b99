//! Values, from plugins and clients.

use photondb_plugin_sdk::Datum;
use photondb_plugin_sdk::datum::DatumRef;
use photondb_server::query::json;

/// An encoded datum.
pub fn datum(bytes: &[u8]) {
    if let Ok(view) = DatumRef::new(bytes) {
        let _ = (view.kind(), view.len(), view.is_empty(), view.as_number(), view.as_str(), view.f32s(&mut Vec::new()));
        for name in ["", "a", "id", "name"] {
            let _ = view.get(name).map(|field| field.to_datum());
        }
        let mut text = Vec::new();
        let written = view.write_json(&mut text);
        match view.to_datum() {
            Ok(datum) => assert_eq!(text, datum.to_json_string().into_bytes()),
            Err(error) => assert_eq!(written, Err(error)),
        }
    }
    if let Ok(datum) = Datum::decode(bytes) {
        let again = Datum::decode(&datum.encoded()).expect("what was decoded encodes");
        assert_eq!(again, datum);
        let _ = datum.to_json_string();
    }
}

/// JSON, as `r.json` and the drivers send it.
pub fn json(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = json::parse(text);
    if let Ok(value) = serde_json::from_str(text)
        && let Ok(datum) = Datum::from_json(&value)
    {
        let again = Datum::decode(&datum.encoded()).expect("a datum of JSON is not too deep");
        assert_eq!(again, datum);
    }
}
