//! Reads JSON against a type: finds unknown and duplicate fields and wrong types, and leaves what upstream would store.
//!
//! One pass over the text builds the value. What upstream's decoding and encoding in Go would change is changed here:
//! unknown fields, nulls and empty optional values go, quantities and times become canonical, embedded objects appear.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::table::{Field, Schema, Type, TypeDef, TypeId, go_name};

/// What came of a check that found nothing worse than unknown and duplicate fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Checked {
    /// The object.
    pub value: Value,
    /// `unknown field "spec.foo"`, `duplicate field "spec.bar"`, each once, in the order of the text.
    pub strict: Vec<String>,
}

/// Why JSON cannot be an object of the type. The messages are upstream's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    /// The text is no JSON.
    #[error("{0}")]
    Syntax(String),
    /// A value is of a wrong type.
    #[error("{0}")]
    Type(String),
}

/// Checks a JSON text.
///
/// # Errors
/// The text is no JSON, or a value of a wrong type is in it.
pub fn check(text: &[u8], schema: &Schema, root: TypeId) -> Result<Checked, CheckError> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let mut context = Context::new(schema);
    let read = context
        .seed(&Type::Object(root), None)
        .deserialize(&mut deserializer);
    let end = deserializer.end();
    context.finish(read.and_then(|value| end.map(|()| value)))
}

/// Checks a value, for example what came of a patch or of YAML.
///
/// # Errors
/// A value of a wrong type is in it.
pub fn check_value(value: Value, schema: &Schema, root: TypeId) -> Result<Checked, CheckError> {
    let mut context = Context::new(schema);
    let read = context.seed(&Type::Object(root), None).deserialize(value);
    context.finish(read)
}

/// The fields that are there twice in any JSON object, wherever they are.
#[must_use]
pub fn duplicates(text: &[u8]) -> Vec<String> {
    static NOTHING: LazyLock<Schema> = LazyLock::new(Schema::default);
    let mut context = Context::new(&NOTHING);
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    // A text that is no JSON is found out where it is decoded.
    let _ = Untyped(&mut context).deserialize(&mut deserializer);
    context.strict
}

/// Reads anything, looking only for fields that are there twice.
struct Untyped<'c, 's>(&'c mut Context<'s>);

impl<'de> DeserializeSeed<'de> for Untyped<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Untyped<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let length = self.0.path.len();
        for index in 0usize.. {
            self.0.path.push_str(&format!("[{index}]"));
            let next = list.next_element_seed(Untyped(self.0));
            self.0.path.truncate(length);
            if next?.is_none() {
                break;
            }
        }
        Ok(())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = BTreeSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.0.within(&key, |context| {
                if !seen.insert(key.clone()) {
                    context.complain("duplicate");
                }
                map.next_value_seed(Untyped(context))
            })?;
        }
        Ok(())
    }
}

/// Reads anything as it is, and finds fields that are there twice.
struct Open<'c, 's>(&'c mut Context<'s>);

impl<'de> DeserializeSeed<'de> for Open<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Open<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let length = self.0.path.len();
        let mut values = Vec::new();
        loop {
            self.0.path.push_str(&format!("[{}]", values.len()));
            let next = list.next_element_seed(Open(self.0));
            self.0.path.truncate(length);
            match next? {
                Some(value) => values.push(value),
                None => return Ok(values.into()),
            }
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let value = self.0.within(&key, |context| {
                if object.contains_key(&key) {
                    context.complain("duplicate");
                }
                map.next_value_seed(Open(context))
            })?;
            object.insert(key, value);
        }
        Ok(object.into())
    }
}

/// Upstream stops counting here.
const MAX_STRICT: usize = 100;

struct Context<'s> {
    schema: &'s Schema,
    /// `spec.containers[0]`, as strict errors name it.
    path: String,
    /// The fields on the way, with their types, as type errors name them.
    fields: Vec<(TypeId, &'s str)>,
    strict: Vec<String>,
    wrong_type: Option<String>,
    /// An error that ends the reading at once.
    fatal: Option<String>,
}

impl<'s> Context<'s> {
    fn new(schema: &'s Schema) -> Self {
        Self {
            schema,
            path: String::new(),
            fields: Vec::new(),
            strict: Vec::new(),
            wrong_type: None,
            fatal: None,
        }
    }

    fn seed<'c>(&'c mut self, ty: &'c Type, field: Option<&'s Field>) -> Seed<'c, 's> {
        Seed {
            context: self,
            ty,
            field,
            in_field: true,
        }
    }

    fn finish(self, read: Result<Option<Value>, serde_json::Error>) -> Result<Checked, CheckError> {
        if let Some(message) = self.fatal {
            return Err(CheckError::Type(message));
        }
        let value = read.map_err(|error| CheckError::Syntax(syntax_message(&error)))?;
        if let Some(message) = self.wrong_type {
            return Err(CheckError::Type(message));
        }
        Ok(Checked {
            value: value.unwrap_or_default(),
            strict: self.strict,
        })
    }

    fn complain(&mut self, what: &str) {
        let message = format!("{what} field {:?}", self.path);
        if self.strict.len() < MAX_STRICT && !self.strict.contains(&message) {
            self.strict.push(message);
        }
    }

    /// Runs `f` with the path one step further.
    fn within<T>(&mut self, key: &str, f: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let result = f(self);
        self.path.truncate(length);
        result
    }

    /// Records that `got` cannot go into the current field; reading goes on, the first such error counts.
    fn mismatch(&mut self, got: &str, go_type: &str) {
        if self.wrong_type.is_some() {
            return;
        }
        let schema = self.schema;
        self.wrong_type = Some(match self.fields.last() {
            None => format!("json: cannot unmarshal {got} into Go value of type {go_type}"),
            Some((owner, _)) => {
                let owner = go_name(&schema.get(*owner).name);
                let owner = owner.rsplit('.').next().unwrap_or(owner);
                let path: Vec<&str> = self.fields.iter().map(|(_, name)| *name).collect();
                let path = path.join(".");
                format!(
                    "json: cannot unmarshal {got} into Go struct field {owner}.{path} of type {go_type}"
                )
            }
        });
    }
}

/// The message without the position, which upstream's has not.
fn syntax_message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    if error.is_eof() {
        return "unexpected end of JSON input".to_owned();
    }
    match message.rsplit_once(" at line ") {
        Some((message, _)) => format!(
            "{message} (line {}, column {})",
            error.line(),
            error.column()
        ),
        None => message,
    }
}

/// Reads one value of a type. Gives `None` for null.
struct Seed<'c, 's> {
    context: &'c mut Context<'s>,
    ty: &'c Type,
    /// The field that the value is in, perhaps as an element.
    field: Option<&'s Field>,
    /// The value is the field's own, not that of an element.
    in_field: bool,
}

impl<'de> DeserializeSeed<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        match self.ty {
            Type::Any | Type::Deduced => de::Deserialize::deserialize(deserializer)
                .map(|value: Value| Some(value).filter(|value| !value.is_null())),
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl Seed<'_, '_> {
    fn go_type(&self) -> String {
        let schema = self.context.schema;
        match self.field {
            None => match self.ty {
                Type::Object(id) => go_name(&schema.get(*id).name).to_owned(),
                _ => String::new(),
            },
            Some(field) if self.in_field => field.go_type(schema),
            Some(field) => field.go_element(schema, self.ty),
        }
    }

    fn mismatch(self, got: &str) -> Option<Value> {
        let go_type = self.go_type();
        self.context.mismatch(got, &go_type);
        None
    }

    fn fatal<E: de::Error>(self, message: impl fmt::Display) -> E {
        self.context
            .fatal
            .get_or_insert_with(|| message.to_string());
        E::custom("stop")
    }

    fn number(self, number: Number) -> Result<Option<Value>, serde_json::Error> {
        let fits = match self.ty {
            Type::Int32 | Type::IntOrString => number
                .as_i64()
                .is_some_and(|number| i32::try_from(number).is_ok()),
            Type::Int64 => number.is_i64(),
            Type::Float => true,
            Type::Quantity => {
                return match crate::validation::quantity::canonical_text(&number.to_string()) {
                    Ok(text) => Ok(Some(text.into())),
                    Err(error) => Err(self.fatal(error)),
                };
            }
            Type::Time | Type::MicroTime => {
                let message = "json: cannot unmarshal number into Go value of type string";
                return Err(self.fatal(message));
            }
            _ => return Ok(self.mismatch("number")),
        };
        match (fits, self.ty) {
            (true, _) => Ok(Some(number.into())),
            (false, Type::IntOrString) => {
                let message =
                    format!("json: cannot unmarshal number {number} into Go value of type int32");
                Err(self.fatal(message))
            }
            (false, _) => Ok(self.mismatch(&format!("number {number}"))),
        }
    }

    fn text<E: de::Error>(self, text: &str) -> Result<Option<Value>, E> {
        let value = match self.ty {
            Type::String | Type::IntOrString => text.to_owned(),
            Type::Quantity => match crate::validation::quantity::canonical_text(text) {
                Ok(text) => text,
                Err(error) => return Err(self.fatal(error)),
            },
            Type::Time | Type::MicroTime => {
                let micro = matches!(self.ty, Type::MicroTime);
                let message = || time_message(text, micro);
                match canonical_time(text, micro) {
                    Some(text) if text.is_empty() => return Ok(None),
                    Some(text) => text,
                    None => {
                        return Err(self.fatal(message()));
                    }
                }
            }
            Type::Bytes => match base64_error(text) {
                None => text.to_owned(),
                Some(position) => {
                    return Err(self.fatal(format!("illegal base64 data at input byte {position}")));
                }
            },
            _ => return Ok(self.mismatch("string")),
        };
        Ok(Some(value.into()))
    }
}

/// Where a text stops being base64.
fn base64_error(text: &str) -> Option<usize> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    // Line ends are allowed anywhere, as in Go.
    if text.bytes().any(|byte| byte == b'\n' || byte == b'\r') {
        let joined: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        return base64_error(&joined);
    }
    match STANDARD.decode(text) {
        Ok(_) => None,
        Err(
            base64::DecodeError::InvalidByte(position, _)
            | base64::DecodeError::InvalidLastSymbol(position, _),
        ) => Some(position),
        Err(_) => Some(text.len()),
    }
}

/// A time in UTC as upstream writes it; empty for the zero time.
fn canonical_time(text: &str, micro: bool) -> Option<String> {
    if text == "0001-01-01T00:00:00Z" {
        return Some(String::new());
    }
    // RFC 3339 is narrower than what the library takes: it wants `T` and an offset.
    if text.as_bytes().get(10) != Some(&b'T') || text.contains('[') {
        return None;
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    let format = if micro {
        "%Y-%m-%dT%H:%M:%S.%6fZ"
    } else {
        "%Y-%m-%dT%H:%M:%SZ"
    };
    Some(time.strftime(format).to_string())
}

fn time_message(text: &str, micro: bool) -> String {
    let layout = if micro {
        "2006-01-02T15:04:05.000000Z07:00"
    } else {
        "2006-01-02T15:04:05Z07:00"
    };
    // Upstream says which part of the layout the rest of the text does not fit; we look as far as the date.
    let digits = |range: std::ops::Range<usize>| {
        text.get(range)
            .is_some_and(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let (rest, part) = match () {
        () if !digits(0..4) => (text, "2006"),
        () if text.get(4..5) != Some("-") => (text.get(4..).unwrap_or_default(), "-"),
        () if !digits(5..7) => (text.get(5..).unwrap_or_default(), "01"),
        () if text.get(7..8) != Some("-") => (text.get(7..).unwrap_or_default(), "-"),
        () if !digits(8..10) => (text.get(8..).unwrap_or_default(), "02"),
        () if text.get(10..11) != Some("T") => (text.get(10..).unwrap_or_default(), "T"),
        () => (text.get(11..).unwrap_or_default(), "15"),
    };
    format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {part:?}")
}

impl<'de> Visitor<'de> for Seed<'_, '_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Self::Value, E> {
        match self.ty {
            Type::Bool => Ok(Some(value.into())),
            Type::Quantity => Err(self.fatal(crate::validation::quantity::QuantityError::Format)),
            Type::IntOrString => {
                Err(self.fatal("json: cannot unmarshal bool into Go value of type int32"))
            }
            Type::Time | Type::MicroTime => {
                Err(self.fatal("json: cannot unmarshal bool into Go value of type string"))
            }
            _ => Ok(self.mismatch("bool")),
        }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
        self.number(value.into()).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Self::Value, E> {
        self.number(value.into()).map_err(E::custom)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Self::Value, E> {
        match Number::from_f64(value) {
            Some(number) => self.number(number).map_err(E::custom),
            None => Ok(self.mismatch("number")),
        }
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Self::Value, E> {
        self.text(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let Type::List(element) = self.ty else {
            while list.next_element::<de::IgnoredAny>()?.is_some() {}
            return match self.ty {
                Type::Quantity => {
                    Err(self.fatal(crate::validation::quantity::QuantityError::Format))
                }
                Type::IntOrString => {
                    Err(self.fatal("json: cannot unmarshal array into Go value of type int32"))
                }
                _ => Ok(self.mismatch("array")),
            };
        };
        let Self { context, field, .. } = self;
        let mut values = Vec::new();
        let length = context.path.len();
        loop {
            context.path.push('[');
            context.path.push_str(&values.len().to_string());
            context.path.push(']');
            let next = list.next_element_seed(Seed {
                context: &mut *context,
                ty: element,
                field,
                in_field: false,
            });
            context.path.truncate(length);
            match next? {
                None => break,
                Some(Some(value)) => values.push(value),
                Some(None) => values.push(zero(context.schema, element)),
            }
        }
        Ok(Some(values.into()))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        match self.ty {
            Type::Object(id) => visit_object(self.context, *id, map).map(Some),
            Type::Map(element) => {
                visit_dictionary(self.context, element, self.field, map).map(Some)
            }
            _ => {
                let mut map = map;
                while map
                    .next_entry::<de::IgnoredAny, de::IgnoredAny>()?
                    .is_some()
                {}
                match self.ty {
                    Type::Quantity => {
                        Err(self.fatal(crate::validation::quantity::QuantityError::Format))
                    }
                    Type::IntOrString => {
                        Err(self.fatal("json: cannot unmarshal object into Go value of type int32"))
                    }
                    _ => Ok(self.mismatch("object")),
                }
            }
        }
    }
}

/// What Go makes of a null in a list or map.
fn zero(schema: &Schema, ty: &Type) -> Value {
    match ty {
        Type::String | Type::Bytes => "".into(),
        Type::Bool => false.into(),
        Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => 0.into(),
        Type::Quantity => "0".into(),
        Type::Object(id) => schema.empty(*id).into(),
        Type::Time | Type::MicroTime | Type::Any | Type::Deduced | Type::List(_) | Type::Map(_) => {
            Value::Null
        }
    }
}

/// A field's place in its type, or the name of a field that the type has not.
enum Key {
    Known(usize),
    Unknown(String),
}

struct KeySeed<'t>(&'t TypeDef);

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Key;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl<'de> Visitor<'de> for KeySeed<'_> {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Key, E> {
        Ok(self
            .0
            .index(name)
            .map_or_else(|| Key::Unknown(name.to_owned()), Key::Known))
    }
}

fn visit_object<'de, A: MapAccess<'de>>(
    context: &mut Context<'_>,
    id: TypeId,
    mut map: A,
) -> Result<Value, A::Error> {
    let schema = context.schema;
    let def = schema.get(id);
    let mut object = Map::new();
    let mut seen = 0u128;
    while let Some(key) = map.next_key_seed(KeySeed(def))? {
        let (field, index) = match key {
            Key::Known(index) => match def.fields.get(index) {
                Some(field) => (field, index),
                None => continue,
            },
            Key::Unknown(name) if def.open => {
                let value = context.within(&name, |context| {
                    if object.contains_key(&name) {
                        context.complain("duplicate");
                    }
                    map.next_value_seed(Open(context))
                })?;
                object.insert(name, value);
                continue;
            }
            Key::Unknown(name) => {
                map.next_value::<de::IgnoredAny>()?;
                context.within(&name, |context| context.complain("unknown"));
                continue;
            }
        };
        let value = context.within(&field.name, |context| {
            let bit = 1u128
                .checked_shl(u32::try_from(index).unwrap_or(u32::MAX))
                .unwrap_or(0);
            if seen & bit != 0 {
                context.complain("duplicate");
            }
            seen |= bit;
            context.fields.push((id, &field.name));
            let value = map.next_value_seed(Seed {
                context: &mut *context,
                ty: &field.ty,
                field: Some(field),
                in_field: true,
            });
            context.fields.pop();
            value
        })?;
        // Of a field that is there twice the last counts.
        match value.filter(|value| is_kept(field, value)) {
            Some(value) => object.insert(field.name.to_string(), value),
            None => object.remove(&*field.name),
        };
    }
    schema.complete(id, &mut object);
    Ok(object.into())
}

/// Whether Go would write the value.
fn is_kept(field: &Field, value: &Value) -> bool {
    if field.always {
        return true;
    }
    match value {
        Value::Null => false,
        // An empty record of owners says that it starts over.
        Value::Array(list) => !list.is_empty() || field.name == "managedFields",
        Value::Object(map) => !(map.is_empty() && matches!(field.ty, Type::Map(_))),
        Value::Bool(value) => field.pointer || *value,
        // A number or string of these types is an object in Go, which is never empty.
        _ if matches!(
            field.ty,
            Type::IntOrString | Type::Quantity | Type::Time | Type::MicroTime
        ) =>
        {
            true
        }
        Value::Number(number) => field.pointer || number.as_f64() != Some(0.0),
        Value::String(text) => field.pointer || !text.is_empty(),
    }
}

fn visit_dictionary<'de, A: MapAccess<'de>>(
    context: &mut Context<'_>,
    element: &Type,
    field: Option<&Field>,
    mut map: A,
) -> Result<Value, A::Error> {
    let mut object = Map::new();
    // The field lives as long as the schema; a lookup gives it back with that lifetime.
    let field = field.and_then(|field| {
        let (owner, _) = context.fields.last()?;
        context.schema.get(*owner).field(&field.name)
    });
    while let Some(key) = map.next_key::<String>()? {
        let value = context.within(&key, |context| {
            if object.contains_key(&key) {
                context.complain("duplicate");
            }
            map.next_value_seed(Seed {
                context: &mut *context,
                ty: element,
                field,
                in_field: false,
            })
        })?;
        let value = value.unwrap_or_else(|| zero(context.schema, element));
        object.insert(key, value);
    }
    Ok(object.into())
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
