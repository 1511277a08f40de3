//! JSON that people and engines hand us, read strictly and with errors that say where.
//!
//! serde_json takes an array for a struct, field by field, so that `"resources": []` would quietly mean "no limits".
//! Here a struct is an object and nothing else. And an error carries the JSON pointer (RFC 6901) of the value at fault:
//! each level that an error passes on its way out notes its key or index, so the good path notes nothing.
//!
//! A key that stands twice in an object is an error in maps, too, and not only where serde's structs notice it: readers
//! disagree on which of them counts (RFC 8259), and an engine's check must not see another value than we do. In what is
//! ignored it does not matter. And what the specification requires must be there, where oci-spec would put in a 0.

use crate::error::{Error, Result};
use serde::de::{Deserialize, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::fmt;

/// What a configuration may say for other platforms. It means nothing here, whatever it holds, so it is read like a
/// property that nobody knows (config.md: extensibility).
const OTHER_PLATFORMS: [&str; 5] = ["freebsd", "solaris", "vm", "windows", "zos"];

/// The properties that must not be missing, by the struct of oci-spec that has a default for them.
fn required(structure: &str) -> &'static [&'static str] {
    match structure {
        "Box" => &["height", "width"],
        "LinuxDeviceCgroup" => &["allow"],
        "LinuxHugepageLimit" => &["pageSize", "limit"],
        "LinuxIdMapping" => &["containerID", "hostID", "size"],
        "LinuxInterfacePriority" => &["name", "priority"],
        "LinuxIOPriority" => &["class", "priority"],
        "LinuxPids" => &["limit"],
        "LinuxThrottleDevice" => &["major", "minor", "rate"],
        "LinuxWeightDevice" => &["major", "minor"],
        "PosixRlimit" => &["type", "soft", "hard"],
        "User" => &["uid", "gid"],
        _ => &[],
    }
}

/// The way to the value at fault, from the inside out.
type Trace = RefCell<Vec<String>>;

/// Parses a whole document; `name` is what messages call it (`config.json`).
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8], name: &str) -> Result<T> {
    let trace = Trace::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let inner = &mut deserializer;
    let value = T::deserialize(Strict { inner, trace: &trace, level: 0, is_map: false, required: &[] });
    match value.and_then(|value| deserializer.end().map(|()| value)) {
        Ok(value) => Ok(value),
        Err(error) if error.is_data() || !trace.borrow().is_empty() => {
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
    /// How deep: 0 is the document itself.
    level: usize,
    /// Whether an object would be a map, which takes a key twice, and not a struct.
    is_map: bool,
    /// What a struct must have.
    required: &'static [&'static str],
}

impl<'a, I> Strict<'a, I> {
    fn around<J>(&self, inner: J) -> Strict<'a, J> {
        Strict { inner, trace: self.trace, level: self.level, is_map: self.is_map, required: self.required }
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
        deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf
        deserialize_option deserialize_unit deserialize_seq deserialize_identifier deserialize_ignored_any
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, D::Error> {
        let visitor = Strict { is_map: true, ..self.around(visitor) };
        self.inner.deserialize_any(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, D::Error> {
        let visitor = Strict { is_map: true, ..self.around(visitor) };
        self.inner.deserialize_map(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> std::result::Result<V::Value, D::Error> {
        let visitor = Strict { is_map: false, required: required(name), ..self.around(visitor) };
        self.inner.deserialize_map(visitor)
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
        let access = Elements { access, trace: self.trace, level: self.level, index: 0 };
        self.inner.visit_seq(access)
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> std::result::Result<V::Value, A::Error> {
        let seen = self.is_map.then(HashSet::new);
        let missing = (1 << self.required.len()) - 1;
        let (trace, level, required) = (self.trace, self.level, self.required);
        let access = Members { access, trace, level, key: Cell::default(), seen, required, missing };
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
    level: usize,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Elements<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> std::result::Result<Option<T::Value>, A::Error> {
        let seed = Strict { inner: seed, trace: self.trace, level: self.level + 1, is_map: false, required: &[] };
        let element = self.access.next_element_seed(seed);
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
    level: usize,
    key: Cell<Cow<'de, str>>,
    /// The keys of a map.
    seen: Option<HashSet<Cow<'de, str>>>,
    required: &'static [&'static str],
    /// A bit for each of those that has not come yet.
    missing: u32,
}

impl<A> Members<'_, '_, A> {
    fn note_key(&self) {
        self.trace.borrow_mut().push(self.key.take().replace('~', "~0").replace('/', "~1"));
    }

    fn note_required(&mut self) {
        let key = self.key.take();
        if let Some(position) = self.required.iter().position(|name| *name == key) {
            self.missing &= !(1 << position);
        }
        self.key.set(key);
    }

    /// At the end of a struct.
    fn check_required<E: serde::de::Error>(&self) -> std::result::Result<(), E> {
        match self.required.get(self.missing.trailing_zeros() as usize) {
            Some(name) => Err(E::missing_field(name)),
            None => Ok(()),
        }
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Members<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> std::result::Result<Option<K::Value>, A::Error> {
        let key = self.access.next_key_seed(Key { inner: seed, key: &self.key, is_top: self.level == 0 })?;
        match &key {
            Some(_) if !self.required.is_empty() => self.note_required(),
            None => self.check_required()?,
            _ => {}
        }
        if let (Some(seen), Some(_)) = (&mut self.seen, &key) {
            let text = self.key.take();
            self.key.set(text.clone());
            if !seen.insert(text) {
                self.note_key();
                return Err(serde::de::Error::custom("duplicate key"));
            }
        }
        Ok(key)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> std::result::Result<T::Value, A::Error> {
        let seed = Strict { inner: seed, trace: self.trace, level: self.level + 1, is_map: false, required: &[] };
        let value = self.access.next_value_seed(seed);
        if value.is_err() {
            self.note_key();
        }
        value
    }
}

/// A seed, deserializer and visitor of a key, which keeps a copy of it (a borrowed one, unless it has escapes).
struct Key<'a, 'de, I> {
    inner: I,
    key: &'a Cell<Cow<'de, str>>,
    /// Whether it is one of the document's own.
    is_top: bool,
}

impl<I> Key<'_, '_, I> {
    /// What the reader is told.
    fn shown<'t>(&self, text: &'t str) -> &'t str {
        if self.is_top && OTHER_PLATFORMS.contains(&text) { "" } else { text }
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, 'de, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> std::result::Result<S::Value, D::Error> {
        self.inner.deserialize(Key { inner: deserializer, key: self.key, is_top: self.is_top })
    }
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Key<'_, 'de, D> {
    type Error = D::Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> std::result::Result<V::Value, D::Error> {
        self.inner.deserialize_any(Key { inner: visitor, key: self.key, is_top: self.is_top })
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
        let shown = self.shown(text);
        self.inner.visit_borrowed_str(shown)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> std::result::Result<V::Value, E> {
        self.key.set(Cow::Owned(text.to_string()));
        let shown = self.shown(text);
        self.inner.visit_str(shown)
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
        let text = r#"{"process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["a", 1]}}"#;
        assert!(message(text).starts_with("config.json: /process/args/1: invalid type: integer"), "{}", message(text));
        let text = r#"{"linux": {"sysctl": {"a/b~c": 1}}}"#;
        assert!(message(text).starts_with("config.json: /linux/sysctl/a~1b~0c: "), "{}", message(text));
        assert!(message(r#"{"linux": "#).starts_with("config.json: /linux: EOF"));
        assert!(message(r#"{"linu"#).starts_with("config.json: EOF"));
        let text = r#"{"linux": {"seccomp": {"defaultAction": 1}}}"#;
        assert!(message(text).starts_with("config.json: /linux/seccomp/defaultAction: "), "{}", message(text));
        assert!(message(r#"{"root": {"path": "/"}, "root": {"path": "/"}}"#).contains("duplicate field"));
    }

    #[test]
    fn a_key_stands_once() {
        let text = r#"{"annotations": {"a": "x", "b": "y", "a": "x"}}"#;
        assert!(message(text).starts_with("config.json: /annotations/a: duplicate key"), "{}", message(text));
        assert!(
            message(r#"{"linux": {"sysctl": {"a/b": "1", "a/b": "2"}}}"#).contains("/linux/sysctl/a~1b: duplicate")
        );
        assert!(parse::<serde_json::Value>(br#"{"a": {"b": 1, "b": 2}}"#, "x").is_err());
        // What nobody knows is ignored, whatever it is.
        let text = r#"{"ociVersion": "1.3.0", "unknown": {"a": 1, "a": 2}, "unknown": 3}"#;
        assert!(parse::<Spec>(text.as_bytes(), "config.json").is_ok());
    }

    #[test]
    fn what_is_required_must_be_there() {
        let mapping = r#"{"linux": {"uidMappings": [{"containerID": 0, "size": 1}]}}"#;
        assert!(
            message(mapping).starts_with("config.json: /linux/uidMappings/0: missing field `hostID`"),
            "{}",
            message(mapping)
        );
        let limit = r#"{"process": {"cwd": "/", "rlimits": [{"type": "RLIMIT_CPU", "soft": 1}]}}"#;
        assert!(
            message(limit).starts_with("config.json: /process/rlimits/0: missing field `hard`"),
            "{}",
            message(limit)
        );
        assert!(
            message(r#"{"linux": {"resources": {"pids": {}}}}"#)
                .contains("/linux/resources/pids: missing field `limit`")
        );
    }

    #[test]
    fn what_is_for_other_platforms_is_ignored() {
        let text = r#"{"ociVersion": "1.3.0", "windows": [], "vm": {"kernel": 1}, "solaris": null, "zos": 1,
                       "freebsd": "", "windows": {}, "linux": {"cgroupsPath": "/a"}}"#;
        let spec: Spec = parse(text.as_bytes(), "config.json").unwrap();
        assert!(spec.windows().is_none() && spec.vm().is_none());
        assert_eq!(spec.linux().as_ref().unwrap().cgroups_path().as_deref(), Some(std::path::Path::new("/a")));
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
