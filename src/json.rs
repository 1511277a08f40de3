//! JSON that people and engines hand us, read strictly and with errors that say where.
//!
//! serde_json takes an array for a struct, field by field, so that `"resources": []` would quietly mean "no limits".
//! Here a struct is an object and nothing else. And an error carries the JSON pointer (RFC 6901) of the value at fault:
//! each level that an error passes on its way out notes its key or index, so the good path notes nothing.

use crate::error::{Error, Result};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::fmt;

/// The way to the value at fault, from the inside out.
type Trace = RefCell<Vec<String>>;

/// Parses a whole document; `name` is what messages call it (`config.json`).
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8], name: &str) -> Result<T> {
    let trace = Trace::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = T::deserialize(Strict { inner: &mut deserializer, trace: &trace });
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(error) if error.is_data() => {
            let pointer: String = trace.borrow().iter().rev().map(|part| format!("/{part}")).collect();
            // The document as a whole has an empty pointer.
            let separator = if pointer.is_empty() { "" } else { ": " };
            Err(Error::new(format!("{name}: {pointer}{separator}{error}")))
        }
        Err(error) => Err(Error::new(format!("{name}: {error}"))),
    }
}

/// A deserializer, a seed or a visitor that passes everything on to `inner`, but for what the top of this file says.
struct Strict<'a, I> {
    inner: I,
    trace: &'a Trace,
}

impl<'a, I> Strict<'a, I> {
    fn around<J>(&self, inner: J) -> Strict<'a, J> {
        Strict { inner, trace: self.trace }
    }
}

macro_rules! pass_on {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, D::Error> {
            let visitor = self.around(visitor);
            self.inner.$method(visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<'_, D> {
    type Error = D::Error;

    pass_on! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_option deserialize_unit deserialize_seq deserialize_map deserialize_identifier
        deserialize_ignored_any
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, D::Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_unit_struct(name, visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> std::result::Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_newtype_struct(name, visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, length: usize, visitor: V) -> std::result::Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_tuple(length, visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        length: usize,
        visitor: V,
    ) -> std::result::Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_tuple_struct(name, length, visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, D::Error> {
        let visitor = self.around(visitor);
        self.inner.deserialize_enum(name, variants, visitor)
    }
}

macro_rules! visit {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: serde::de::Error>(self, value: $type) -> std::result::Result<V::Value, E> {
            self.inner.$method(value)
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str) visit_borrowed_str(&'de str)
        visit_string(String)
    }

    fn visit_none<E: serde::de::Error>(self) -> std::result::Result<V::Value, E> {
        self.inner.visit_none()
    }

    fn visit_unit<E: serde::de::Error>(self) -> std::result::Result<V::Value, E> {
        self.inner.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<V::Value, D::Error> {
        let deserializer = self.around(deserializer);
        self.inner.visit_some(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<V::Value, D::Error> {
        let deserializer = self.around(deserializer);
        self.inner.visit_newtype_struct(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> std::result::Result<V::Value, A::Error> {
        let access = Elements { access, trace: self.trace, index: 0 };
        self.inner.visit_seq(access)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> std::result::Result<V::Value, A::Error> {
        let access = Members { access, trace: self.trace, key: Cell::default() };
        self.inner.visit_map(access)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> std::result::Result<V::Value, A::Error> {
        self.inner.visit_enum(access)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<S::Value, D::Error> {
        let deserializer = self.around(deserializer);
        self.inner.deserialize(deserializer)
    }
}

/// The elements of an array.
struct Elements<'a, A> {
    access: A,
    trace: &'a Trace,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> std::result::Result<Option<T::Value>, A::Error> {
        let element = self.access.next_element_seed(Strict { inner: seed, trace: self.trace });
        if element.is_err() {
            self.trace.borrow_mut().push(self.index.to_string());
        }
        self.index += 1;
        element
    }

    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

/// The members of an object; the key is kept in case its value is at fault.
struct Members<'a, 'de, A> {
    access: A,
    trace: &'a Trace,
    key: Cell<Cow<'de, str>>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> std::result::Result<Option<K::Value>, A::Error> {
        self.access.next_key_seed(Key { inner: seed, key: &self.key })
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> std::result::Result<T::Value, A::Error> {
        let value = self.access.next_value_seed(Strict { inner: seed, trace: self.trace });
        if value.is_err() {
            let key = self.key.take().replace('~', "~0").replace('/', "~1");
            self.trace.borrow_mut().push(key);
        }
        value
    }
}

/// A seed, deserializer and visitor of a key, which keeps a copy of it (a borrowed one, unless it has escapes).
struct Key<'a, 'de, I> {
    inner: I,
    key: &'a Cell<Cow<'de, str>>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, 'de, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<S::Value, D::Error> {
        self.inner.deserialize(Key { inner: deserializer, key: self.key })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Key<'_, 'de, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, D::Error> {
        self.inner.deserialize_any(Key { inner: visitor, key: self.key })
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Key<'_, 'de, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> std::result::Result<V::Value, E> {
        self.key.set(Cow::Borrowed(text));
        self.inner.visit_borrowed_str(text)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<V::Value, E> {
        self.key.set(Cow::Owned(text.to_string()));
        self.inner.visit_str(text)
    }
}

/// A document for people: each level indented by `indent`, no newline at the end.
pub fn indented(value: &serde_json::Value, indent: &[u8]) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(indent);
    serde::Serialize::serialize(value, &mut serde_json::Serializer::with_formatter(&mut text, formatter))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::Spec;

    fn message(text: &str) -> String {
        parse::<Spec>(text.as_bytes(), "config.json").unwrap_err().to_string()
    }

    #[test]
    fn an_array_is_no_struct() {
        assert!(message(r#"{"hooks": []}"#).contains("/hooks: invalid type: sequence"));
        assert!(message(r#"{"linux": {"resources": []}}"#).starts_with("config.json: /linux/resources: invalid type"));
        assert!(message("[]").starts_with("config.json: : invalid type") || message("[]").contains("invalid type"));
    }

    #[test]
    fn an_error_names_its_place() {
        let text = r#"{"process": {"user": {"uid": 0}, "cwd": "/", "args": ["a", 1]}}"#;
        assert!(message(text).starts_with("config.json: /process/args/1: invalid type: integer"), "{}", message(text));
        let text = r#"{"linux": {"sysctl": {"a/b~c": 1}}}"#;
        assert!(message(text).starts_with("config.json: /linux/sysctl/a~1b~0c: "), "{}", message(text));
        assert!(message(r#"{"linux": "#).starts_with("config.json: EOF"));
        assert!(message(r#"{"root": {"path": "/"}, "root": {"path": "/"}}"#).contains("duplicate field"));
    }

    #[test]
    fn what_is_right_is_read() {
        let text = r#"{"ociVersion": "1.3.0", "process": {"user": {"uid": 5, "gid": 0}, "cwd": "/", "args": ["x"]},
                       "hooks": null, "unknown": [{}], "annotations": {"a": "b"}}"#;
        let spec: Spec = parse(text.as_bytes(), "config.json").unwrap();
        assert_eq!(spec.process().as_ref().unwrap().user().uid(), 5);
        assert!(spec.hooks().is_none());
    }
}
