//! Protobuf's wire format: tags, varints, lengths.

/// Why bytes are no protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The bytes end within a field.
    #[error("unexpected end")]
    Truncated,
    /// A number longer than 64 bits, or field number 0.
    #[error("bad number")]
    BadNumber,
    /// A wire type that is none, or not the field's.
    #[error("bad wire type")]
    BadType,
    /// Text that is no UTF-8.
    #[error("bad text")]
    BadText,
    /// Messages within messages beyond reason.
    #[error("nested too deeply")]
    TooDeep,
    /// Raw JSON within that is none, or a time out of range.
    #[error("bad value")]
    BadValue,
}

/// The value of a field on the wire.
#[derive(Clone, Copy, Debug)]
pub enum Raw<'a> {
    /// An integer or a boolean.
    Varint(u64),
    /// Eight bytes: a double.
    Fixed(u64),
    /// Text, bytes, a message.
    Bytes(&'a [u8]),
}

impl<'a> Raw<'a> {
    /// The integer.
    pub fn integer(self) -> Result<u64, WireError> {
        if let Self::Varint(value) = self {
            Ok(value)
        } else {
            Err(WireError::BadType)
        }
    }
    /// The bytes.
    pub fn bytes(self) -> Result<&'a [u8], WireError> {
        if let Self::Bytes(bytes) = self {
            Ok(bytes)
        } else {
            Err(WireError::BadType)
        }
    }
    /// The text.
    pub fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::BadText)
    }
}

/// The fields of a message, in the order of the wire.
pub struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    /// Those in `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(WireError::Truncated)?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::BadNumber)
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let length = usize::try_from(length).map_err(|_| WireError::Truncated)?;
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn field(&mut self) -> Result<(u32, Raw<'a>), WireError> {
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3)
            .ok()
            .filter(|number| *number > 0)
            .ok_or(WireError::BadNumber)?;
        let value = match tag & 7 {
            0 => Raw::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Raw::Fixed(
                    bytes
                        .iter()
                        .rev()
                        .fold(0, |value, byte| value << 8 | u64::from(*byte)),
                )
            }
            2 => {
                let length = self.varint()?;
                Raw::Bytes(self.take(length)?)
            }
            _ => return Err(WireError::BadType),
        };
        Ok((number, value))
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Raw<'a>), WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn put_number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes an integer field.
pub fn put_integer(out: &mut Vec<u8>, number: u32, value: u64) {
    put_number(out, u64::from(number) << 3);
    put_number(out, value);
}

/// Writes a double.
pub fn put_double(out: &mut Vec<u8>, number: u32, value: f64) {
    put_number(out, u64::from(number) << 3 | 1);
    out.extend(value.to_le_bytes());
}

/// Writes text, bytes or a message.
pub fn put_bytes(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    put_number(out, u64::from(number) << 3 | 2);
    put_number(out, value.len() as u64);
    out.extend(value);
}
