//! Compiled functions back as the text of a term, as indexes store them.

use std::sync::Arc;

use photondb_plugin_sdk::Datum;

use super::compile::{CallNode, FunctionTerm, Node};
use super::eval::Bindings;

/// The function as a term in JSON. Variables of the functions around it are replaced by their values.
#[must_use]
pub fn function(term: &FunctionTerm, around: Option<&Arc<Bindings>>) -> String {
    let mut text = String::new();
    Writer { around }.function(term, 0, &mut text);
    text
}

/// The function that takes a field.
#[must_use]
pub fn field(name: &str) -> String {
    format!("[69,[[2,[1]],[170,[[10,[1]],{}]]]]", Datum::from(name).to_json_string())
}

struct Writer<'a> {
    around: Option<&'a Arc<Bindings>>,
}

impl Writer<'_> {
    /// `inside` is how many of the written functions the node is in.
    fn node(&self, node: &Node, inside: usize, out: &mut String) {
        match node {
            Node::Constant { value, .. } => constant(value, out),
            Node::Object(fields) => self.fields(fields, inside, out),
            Node::Variable { id, up, .. } if *up < inside => {
                out.push_str("[10,[");
                out.push_str(&id.to_string());
                out.push_str("]]");
            }
            Node::Variable { up, position, .. } => constant(&self.captured(*up - inside, *position), out),
            Node::Function(term) => self.function(term, inside, out),
            Node::Call(call) => self.call(call, inside, out),
        }
    }

    fn captured(&self, up: usize, position: usize) -> Datum {
        let mut frame = self.around;
        for _ in 0..up {
            frame = frame.and_then(|frame| frame.around.as_ref());
        }
        let row = frame.and_then(|frame| frame.args.get(position));
        row.and_then(|row| row.datum().ok().cloned()).unwrap_or_default()
    }

    fn function(&self, term: &FunctionTerm, inside: usize, out: &mut String) {
        let params: Vec<String> = term.params.iter().map(i64::to_string).collect();
        out.push_str("[69,[[2,[");
        out.push_str(&params.join(","));
        out.push_str("]],");
        self.node(&term.body, inside + 1, out);
        out.push_str("]]");
    }

    fn call(&self, call: &CallNode, inside: usize, out: &mut String) {
        out.push('[');
        out.push_str(&call.op.number.to_string());
        out.push_str(",[");
        for (position, arg) in call.args.iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            self.node(arg, inside, out);
        }
        out.push(']');
        if !call.options.is_empty() {
            out.push(',');
            self.fields(&call.options, inside, out);
        }
        out.push(']');
    }

    fn fields(&self, fields: &[(Arc<str>, Node)], inside: usize, out: &mut String) {
        out.push('{');
        for (position, (name, field)) in fields.iter().enumerate() {
            if position > 0 {
                out.push(',');
            }
            out.push_str(&Datum::String(name.clone()).to_json_string());
            out.push(':');
            self.node(field, inside, out);
        }
        out.push('}');
    }
}

/// A literal: arrays are terms on the wire.
fn constant(value: &Datum, out: &mut String) {
    match value {
        Datum::Array(elements) => {
            out.push_str("[2,[");
            for (position, element) in elements.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                constant(element, out);
            }
            out.push_str("]]");
        }
        Datum::Object(object) => match super::pseudo::special(object) {
            Some(super::pseudo::Special::Min) => out.push_str("[180,[]]"),
            Some(super::pseudo::Special::Max) => out.push_str("[181,[]]"),
            _ => {
                out.push('{');
                for (position, (name, field)) in object.iter().enumerate() {
                    if position > 0 {
                        out.push(',');
                    }
                    out.push_str(&Datum::String(name.clone()).to_json_string());
                    out.push(':');
                    constant(field, out);
                }
                out.push('}');
            }
        },
        scalar => out.push_str(&scalar.to_json_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::{compile, parse};
    use super::*;

    fn compiled(text: &str) -> Arc<FunctionTerm> {
        match compile::query(parse::term(text.as_bytes()).unwrap()).unwrap() {
            Node::Function(term) => term,
            other => panic!("no function: {other:?}"),
        }
    }

    #[test]
    fn a_function_is_written_as_it_was_read() {
        let text = r#"[69,[[2,[1]],[2,[[170,[[10,[1]],"a"]],[2,[1,2]]]]]]"#;
        assert_eq!(function(&compiled(text), None), text);
        assert_eq!(function(&compiled("[69,[[2,[1]],[13]]]"), None), "[69,[[2,[1]],[10,[1]]]]");
        assert_eq!(function(&compiled(&field("a\"b")), None), field("a\"b"));
    }

    #[test]
    fn variables_from_outside_become_values() {
        let outer = compiled(r#"[69,[[2,[1]],[69,[[2,[2]],[170,[[10,[2]],[10,[1]]]]]]]]"#);
        let Node::Function(inner) = &outer.body else { panic!("no inner function") };
        let around = Arc::new(Bindings { args: vec![Datum::from("a").into()], sites: Vec::new(), around: None });
        assert_eq!(function(inner, Some(&around)), r#"[69,[[2,[2]],[170,[[10,[2]],"a"]]]]"#);
    }
}
