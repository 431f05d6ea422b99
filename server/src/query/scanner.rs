//! JSON text, read token by token.
//!
//! A query is mostly numbers where it has vectors in it: reading one is what has to be fast here. Whoever reads bounds
//! the nesting, with the levels that [`Scanner::skip`] and its own functions get.

use std::borrow::Cow;

/// A place in a text.
pub struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// What the next value is, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// `[`, which is still to be read.
    Array,
    /// `{`, which is still to be read.
    Object,
    /// A string.
    String,
    /// A number.
    Number,
    /// `true`, which has been read.
    True,
    /// `false`, which has been read.
    False,
    /// `null`, which has been read.
    Null,
}

impl<'a> Scanner<'a> {
    /// At the beginning of the text.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// The error for what is found at this place.
    #[must_use]
    pub fn error(&self, expected: &str) -> String {
        match self.text.get(self.at) {
            Some(byte) => format!("expected {expected} at byte {}, found `{}`", self.at, byte.escape_ascii()),
            None => format!("expected {expected} at byte {}, where the text ends", self.at),
        }
    }

    /// The next byte that is no white space.
    fn peek(&mut self) -> Option<u8> {
        loop {
            match self.text.get(self.at)? {
                b' ' | b'\n' | b'\t' | b'\r' => self.at += 1,
                byte => return Some(*byte),
            }
        }
    }

    /// Reads this byte, if it is the next one.
    pub fn take(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        self.at += usize::from(is_next);
        is_next
    }

    /// Reads this byte.
    ///
    /// # Errors
    /// When it is not the next one; `what` it stands for is in the message.
    pub fn expect(&mut self, byte: u8, what: &str) -> Result<(), String> {
        if self.take(byte) { Ok(()) } else { Err(self.error(what)) }
    }

    /// Before the element of an array or the field of an object at this position: whether there is one. Otherwise the
    /// closing bracket has been read.
    ///
    /// # Errors
    /// When there is neither.
    pub fn has_more(&mut self, position: usize, close: u8) -> Result<bool, String> {
        if self.take(close) {
            return Ok(false);
        }
        if position > 0 {
            self.expect(b',', "a comma or a closing bracket")?;
        }
        Ok(true)
    }

    /// What comes next; words are read with that.
    ///
    /// # Errors
    /// When it is no value.
    pub fn next(&mut self) -> Result<Next, String> {
        let (word, next) = match self.peek() {
            Some(b'[') => return Ok(Next::Array),
            Some(b'{') => return Ok(Next::Object),
            Some(b'"') => return Ok(Next::String),
            Some(b'-' | b'0'..=b'9') => return Ok(Next::Number),
            Some(b't') => (&b"true"[..], Next::True),
            Some(b'f') => (&b"false"[..], Next::False),
            Some(b'n') => (&b"null"[..], Next::Null),
            _ => return Err(self.error("a value")),
        };
        if !self.text[self.at..].starts_with(word) {
            return Err(self.error("a value"));
        }
        self.at += word.len();
        Ok(next)
    }

    /// Reads a string.
    ///
    /// # Errors
    /// When it is none, or not UTF-8.
    pub fn string(&mut self) -> Result<Cow<'a, str>, String> {
        let start = self.at + 1;
        self.expect(b'"', "a string")?;
        let mut is_plain = true;
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            let stop = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
            self.at += stop.unwrap_or(rest.len());
            match self.text.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_plain = false;
                    self.at += 2;
                }
                _ => return Err(self.error("the rest of a string")),
            }
        }
        self.at += 1;
        if is_plain {
            let bytes = &self.text[start..self.at - 1];
            return std::str::from_utf8(bytes)
                .map(Cow::Borrowed)
                .map_err(|error| format!("the string at byte {start} is not UTF-8: {error}"));
        }
        let quoted = &self.text[start - 1..self.at];
        serde_json::from_slice(quoted)
            .map(Cow::Owned)
            .map_err(|error| format!("the string at byte {start} is wrong: {error}"))
    }

    /// Reads a number.
    ///
    /// # Errors
    /// When it is none, or beyond the range of f64.
    pub fn number(&mut self) -> Result<f64, String> {
        let start = self.number_start()?;
        let rest = self.text.get(start..).unwrap_or_default();
        match fast_float2::parse_partial::<f64, _>(rest) {
            Ok((number, length)) if number.is_finite() => {
                self.at = start + length;
                Ok(number)
            }
            Ok(_) => Err(format!("the number at byte {start} is out of range")),
            Err(_) => Err(self.error("a number")),
        }
    }

    /// Where the next number starts. Looks at what the parser of numbers takes and JSON does not: signs and points
    /// without digits, zeros in front, and words. Anything behind the number is for the caller to look at.
    fn number_start(&mut self) -> Result<usize, String> {
        let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
        self.peek();
        let start = self.at;
        self.at += usize::from(self.text.get(self.at) == Some(&b'-'));
        let first = self.at;
        while is_digit(self.text.get(self.at)) {
            self.at += 1;
        }
        let is_led_by_zero = self.text.get(first) == Some(&b'0') && self.at > first + 1;
        if self.at == first || is_led_by_zero {
            return Err(self.error("a number"));
        }
        if self.text.get(self.at) == Some(&b'.') && !is_digit(self.text.get(self.at + 1)) {
            self.at += 1;
            return Err(self.error("a digit"));
        }
        Ok(start)
    }

    /// Reads a whole number without sign, fraction or exponent.
    ///
    /// # Errors
    /// When it is none, or too large; `what` it stands for is in the message.
    pub fn integer(&mut self, what: &str) -> Result<u32, String> {
        let start = self.number_start().map_err(|_| self.error(what))?;
        let text = std::str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        let is_whole = !matches!(self.text.get(self.at), Some(b'.' | b'e' | b'E'));
        match text.parse() {
            Ok(number) if is_whole => Ok(number),
            _ => {
                self.at = start;
                Err(self.error(what))
            }
        }
    }

    /// Reads past a value that nobody wants, nested at most so many levels.
    ///
    /// # Errors
    /// When it is no value, or nested deeper.
    pub fn skip(&mut self, levels: usize) -> Result<(), String> {
        let below = || levels.checked_sub(1).ok_or_else(|| "a value is nested too deeply".to_owned());
        match self.next()? {
            Next::True | Next::False | Next::Null => Ok(()),
            Next::Number => self.number().map(drop),
            Next::String => self.string().map(drop),
            Next::Array => {
                let below = below()?;
                self.expect(b'[', "an array")?;
                let mut position = 0;
                while self.has_more(position, b']')? {
                    self.skip(below)?;
                    position += 1;
                }
                Ok(())
            }
            Next::Object => {
                let below = below()?;
                self.expect(b'{', "an object")?;
                let mut position = 0;
                while self.has_more(position, b'}')? {
                    self.string()?;
                    self.expect(b':', "a colon")?;
                    self.skip(below)?;
                    position += 1;
                }
                Ok(())
            }
        }
    }

    /// Checks that nothing but white space is left.
    ///
    /// # Errors
    /// When there is.
    pub fn end(&mut self) -> Result<(), String> {
        if self.peek().is_none() { Ok(()) } else { Err(self.error("the end")) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    /// A whole text as serde_json would read it, whose reading is the standard.
    fn value(text: &mut Scanner<'_>) -> Result<Value, String> {
        Ok(match text.next()? {
            Next::Null => Value::Null,
            Next::True => true.into(),
            Next::False => false.into(),
            Next::Number => text.number()?.into(),
            Next::String => text.string()?.into(),
            Next::Array => {
                text.expect(b'[', "an array")?;
                let mut elements = Vec::new();
                while text.has_more(elements.len(), b']')? {
                    elements.push(value(text)?);
                }
                elements.into()
            }
            Next::Object => {
                text.expect(b'{', "an object")?;
                let (mut fields, mut position) = (Map::new(), 0);
                while text.has_more(position, b'}')? {
                    let name = text.string()?.into_owned();
                    text.expect(b':', "a colon")?;
                    fields.insert(name, value(text)?);
                    position += 1;
                }
                fields.into()
            }
        })
    }

    /// All numbers as f64, which is what they become.
    fn as_f64(value: Value) -> Value {
        match value {
            Value::Number(number) => number.as_f64().into(),
            Value::Array(elements) => elements.into_iter().map(as_f64).collect(),
            Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, as_f64(value))).collect(),
            other => other,
        }
    }

    fn agrees(text: &[u8]) {
        let mut ours = Scanner::new(text);
        let read = value(&mut ours).and_then(|value| ours.end().map(|()| value));
        let standard = serde_json::from_slice::<Value>(text).map(as_f64);
        let shown = String::from_utf8_lossy(text);
        assert_eq!(read.as_ref().ok(), standard.as_ref().ok(), "{shown}: {read:?}, {standard:?}");
        let mut ours = Scanner::new(text);
        let skipped = ours.skip(usize::MAX).and_then(|()| ours.end());
        assert_eq!(skipped.is_ok(), read.is_ok(), "{shown}: {skipped:?}");
    }

    fn number(text: &str) {
        let standard = serde_json::from_str::<f64>(text).ok().map(f64::to_bits);
        let mut ours = Scanner::new(text.as_bytes());
        let read = ours.number().and_then(|number| ours.end().map(|()| number.to_bits()));
        assert_eq!(read.as_ref().ok(), standard.as_ref(), "{text}: {read:?}");
    }

    #[test]
    fn numbers_at_the_limits() {
        for text in [
            "0",
            "-0",
            "-0.0",
            "0e999",
            "1e22",
            "1e23",
            "1e-22",
            "1e-23",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993e1",
            "18446744073709551616",
            "184467440737095516160e-20",
            "36893488147419103232",
            "0.00000000000000000000000001",
            "00",
            "01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "-",
            "+1",
            "1e309",
            "1e-400",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "0.1e1",
            "4.9e-324",
            "2.2250738585072011e-308",
            "179769313486231580793e289",
            "- 1",
            "1 ",
            "1_0",
            "0x10",
            "NaN",
            "inf",
        ] {
            number(text);
        }
    }

    #[test]
    fn nesting_is_bounded_where_a_value_is_skipped() {
        assert!(Scanner::new(&b"[".repeat(1_000_000)).skip(1000).unwrap_err().contains("deeply"));
        assert!(Scanner::new(r#"{"a":"#.repeat(1_000_000).as_bytes()).skip(1000).unwrap_err().contains("deeply"));
    }

    #[test]
    fn errors_say_where() {
        let message = Scanner::new(b"[1,}").skip(9).unwrap_err();
        assert_eq!(message, "expected a value at byte 3, found `}`");
        let message = Scanner::new(b"[1").skip(9).unwrap_err();
        assert_eq!(message, "expected a comma or a closing bracket at byte 2, where the text ends");
    }

    proptest! {
        #[test]
        fn numbers_are_rounded_correctly(text in r"-?[0-9]{1,24}(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,3})?") {
            number(&text);
        }

        #[test]
        fn numbers_come_back(wide in any::<f64>(), narrow in any::<f32>()) {
            for text in [format!("{wide}"), format!("{wide:e}"), format!("{narrow}"), format!("{}", f64::from(narrow))] {
                number(&text);
            }
        }

        #[test]
        fn text_like_json_is_read_as_by_the_standard(text in r#"[\[\]{}",:0-9a-fnrtul\\eE+. \n-]{0,40}"#) {
            agrees(text.as_bytes());
        }

        #[test]
        fn strings_are_read_as_by_the_standard(
            text in r#"[a"\\]{0,3}(\\u[0-9a-fdD]{4}|\\[nrtbf"/\\x]|[ -~]|[\x00-\x1f]|é|😀){0,6}"#,
        ) {
            agrees(format!("\"{text}\"").as_bytes());
        }

        #[test]
        fn arbitrary_bytes_are_read_as_by_the_standard(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            agrees(&bytes);
            agrees(&[b"\"", &bytes[..], b"\""].concat());
        }
    }
}
