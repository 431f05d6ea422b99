//! Values as error messages show them.

use photondb_plugin_sdk::Datum;

/// Longest text that an error message shows of a value.
const SHOWN_BYTES: usize = 4096;
/// Longest text in messages of errors that are often caught, one for each row.
const SHORT_BYTES: usize = 300;

/// The value over several lines, indented by tabs, as RethinkDB prints it; cut where it gets long.
pub fn pretty(datum: &Datum) -> String {
    cut_pretty(datum, SHOWN_BYTES)
}

/// As [`pretty`], for errors that are often caught: cut early, so that it costs little.
pub fn brief(datum: &Datum) -> String {
    cut_pretty(datum, SHORT_BYTES)
}

fn cut_pretty(datum: &Datum, limit: usize) -> String {
    let mut text = String::new();
    print(datum, 0, limit, &mut text);
    if text.len() > limit {
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

fn print(datum: &Datum, depth: usize, limit: usize, out: &mut String) {
    if out.len() > limit {
        return;
    }
    match datum {
        Datum::Array(elements) => {
            out.push('[');
            for (position, element) in elements.iter().enumerate() {
                if out.len() > limit {
                    return;
                }
                if position > 0 {
                    out.push_str(", ");
                }
                print(element, depth + 1, limit, out);
            }
            out.push(']');
        }
        Datum::Object(object) if object.is_empty() => out.push_str("{}"),
        Datum::Object(object) => {
            out.push_str("{\n");
            for (position, (name, value)) in object.iter().enumerate() {
                if out.len() > limit {
                    return;
                }
                if position > 0 {
                    out.push_str(",\n");
                }
                indent(depth + 1, out);
                out.push_str(&Datum::String(name.clone()).to_json_string());
                out.push_str(":\t");
                print(value, depth + 1, limit, out);
            }
            out.push('\n');
            indent(depth, out);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_json_string()),
    }
}

fn indent(depth: usize, out: &mut String) {
    out.extend(std::iter::repeat_n('\t', depth));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_take_a_line_a_field() {
        let datum = Datum::object([("id", Datum::from(1)), ("a", Datum::array([Datum::from(1), Datum::from(2)]))]);
        assert_eq!(pretty(&datum), "{\n\t\"a\":\t[1, 2],\n\t\"id\":\t1\n}");
        assert_eq!(pretty(&Datum::object::<&str, Datum>([])), "{}");
    }
}
