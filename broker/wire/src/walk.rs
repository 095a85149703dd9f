//! Walks a request body by its layout before any decoder sees it.
//!
//! In: a body, its layout and version. Out: `Ok` when the body is exactly one request of that layout.
//!
//! Invariants
//! - Memory is never reserved for a claim; the walk only moves a position.
//! - After `Ok`, every array's count times the smallest size of its element fits in the bytes that followed it, and all
//!   elements together are at most [`ELEMENTS_MAX`]: what the decoder reserves is bounded by what the peer really sent.
//!
//! Must not: look at values other than counts, lengths, nulls and tags.

/// What is wrong with a body. Positions count from the body's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WalkError {
    /// A field, count or length reaches behind the end.
    #[error("the body ends within a field that starts at byte {at}")]
    Short {
        /// Where the field starts.
        at: usize,
    },
    /// A null where the protocol has none.
    #[error("null at byte {at} where none is allowed")]
    Null {
        /// Where the length stands.
        at: usize,
    },
    /// A length or count below -1, or above what its type may hold.
    #[error("impossible length at byte {at}")]
    Length {
        /// Where the length stands.
        at: usize,
    },
    /// A variable-length number of more than five bytes or 32 bits.
    #[error("overlong number at byte {at}")]
    Number {
        /// Where it starts.
        at: usize,
    },
    /// Tags out of order or twice, a known tag with other content than its type, or in a version that has it not.
    #[error("tagged field out of form at byte {at}")]
    Tag {
        /// Where the tag stands.
        at: usize,
    },
    /// Bytes after the last field.
    #[error("{left} bytes behind the last field")]
    Trailing {
        /// How many.
        left: usize,
    },
    /// More elements than any client sends.
    #[error("more than {max} elements")]
    Elements {
        /// The limit.
        max: usize,
    },
    /// Structures nested deeper than any request is. A layout cannot do so; this bounds a mistake of ours.
    #[error("nested too deeply")]
    Depth,
}

/// Array elements and tagged fields of one request. An element of one byte becomes up to some 150 bytes in memory, so
/// this bounds a decoded request to tens of MB; a Metadata request for 100,000 topics still passes.
pub const ELEMENTS_MAX: usize = 262_144;
/// No request nests deeper than four.
const DEPTH_MAX: usize = 8;
/// Kafka refuses longer strings in both forms.
const TEXT_BYTES_MAX: usize = 32_767;
/// A version number no API reaches.
pub(super) const NEVER: i16 = i16::MAX;

/// How one value stands on the wire.
#[derive(Debug)]
pub(super) enum Shape {
    /// So many bytes.
    Fixed(usize),
    /// A string: 16-bit length, or compact.
    Text {
        /// Whether null is a value.
        nullable: bool,
    },
    /// Bytes: 32-bit length, or compact.
    Blob {
        /// Whether null is a value.
        nullable: bool,
    },
    /// A count, then so many elements.
    Array {
        /// Whether null is a value.
        nullable: bool,
        /// Each element.
        element: &'static Shape,
    },
    /// The fields of another layout.
    Struct(&'static Layout),
    /// A presence byte, then perhaps the fields of another layout.
    Option(&'static Layout),
}

/// One field and the versions that have it.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) since: i16,
    pub(super) until: i16,
    pub(super) shape: Shape,
}

/// One known tagged field and the versions that have it.
#[derive(Debug)]
pub(super) struct Tagged {
    pub(super) tag: u32,
    pub(super) since: i16,
    pub(super) until: i16,
    pub(super) shape: Shape,
}

/// The fields of one structure in wire order.
#[derive(Debug)]
pub(super) struct Layout {
    /// The first version with compact lengths and tagged fields.
    pub(super) flexible_since: i16,
    pub(super) fields: &'static [Field],
    pub(super) tagged: &'static [Tagged],
}

/// Checks that `body` is exactly one request of this layout.
pub(super) fn body(layout: &'static Layout, version: i16, body: &[u8]) -> Result<(), WalkError> {
    let mut walk = Walk::new(body, version);
    walk.structure(layout)?;
    walk.end()
}

/// Checks the tagged fields of a request header v2 and returns how many bytes they are.
pub(super) fn header_tags(bytes: &[u8]) -> Result<usize, WalkError> {
    let mut walk = Walk::new(bytes, 0);
    walk.tagged(&[], 0)?;
    Ok(walk.at)
}

struct Walk<'a> {
    bytes: &'a [u8],
    at: usize,
    version: i16,
    elements: usize,
    #[cfg(test)]
    claims: Vec<Claim>,
}

/// Where a count or length stands; the hostile tests overwrite each.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
struct Claim {
    at: usize,
    /// Bytes it takes.
    width: usize,
    /// Whether it is a variable-length number.
    compact: bool,
    /// Whether it counts elements.
    array: bool,
}

impl<'a> Walk<'a> {
    fn new(bytes: &'a [u8], version: i16) -> Self {
        Self {
            bytes,
            at: 0,
            version,
            elements: 0,
            #[cfg(test)]
            claims: Vec::new(),
        }
    }

    fn end(&self) -> Result<(), WalkError> {
        match self.left() {
            0 => Ok(()),
            left => Err(WalkError::Trailing { left }),
        }
    }

    fn left(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn structure(&mut self, layout: &'static Layout) -> Result<(), WalkError> {
        self.structure_at(layout, 0)
    }

    fn structure_at(&mut self, layout: &'static Layout, depth: usize) -> Result<(), WalkError> {
        if depth > DEPTH_MAX {
            return Err(WalkError::Depth);
        }
        let compact = self.version >= layout.flexible_since;
        for field in layout.fields {
            if (field.since..=field.until).contains(&self.version) {
                self.value(&field.shape, compact, depth)?;
            }
        }
        if compact { self.tagged(layout.tagged, depth) } else { Ok(()) }
    }

    fn value(&mut self, shape: &'static Shape, compact: bool, depth: usize) -> Result<(), WalkError> {
        match shape {
            Shape::Fixed(size) => self.skip(*size),
            Shape::Text { nullable } => {
                let at = self.at;
                match self.length(compact, Width::Two, *nullable, false)? {
                    Some(length) if length > TEXT_BYTES_MAX => Err(WalkError::Length { at }),
                    length => self.skip(length.unwrap_or(0)),
                }
            }
            Shape::Blob { nullable } => {
                let length = self.length(compact, Width::Four, *nullable, false)?;
                self.skip(length.unwrap_or(0))
            }
            Shape::Array { nullable, element } => self.array(*nullable, element, compact, depth),
            Shape::Struct(layout) => self.structure_at(layout, depth.saturating_add(1)),
            Shape::Option(layout) => {
                // The decoder takes 1 as present and all else as absent; the protocol knows only 1 and -1.
                let at = self.at;
                match self.byte()? {
                    1 => self.structure_at(layout, depth.saturating_add(1)),
                    0xff => Ok(()),
                    _ => Err(WalkError::Length { at }),
                }
            }
        }
    }

    fn array(&mut self, nullable: bool, element: &'static Shape, compact: bool, depth: usize) -> Result<(), WalkError> {
        let at = self.at;
        let Some(count) = self.length(compact, Width::Four, nullable, true)? else { return Ok(()) };
        // SECURITY: the decoder reserves memory for `count` elements at once; so many must really be able to follow.
        let smallest = self.smallest(element, compact, depth)?.max(1);
        if count > self.left().checked_div(smallest).unwrap_or(0) {
            return Err(WalkError::Short { at });
        }
        self.add_elements(count)?;
        if let Shape::Fixed(size) = element {
            return self.skip(count.saturating_mul(*size));
        }
        for _ in 0..count {
            self.value(element, compact, depth.saturating_add(1))?;
        }
        Ok(())
    }

    fn tagged(&mut self, known: &'static [Tagged], depth: usize) -> Result<(), WalkError> {
        let at = self.at;
        let count = usize::try_from(self.number()?).unwrap_or(usize::MAX);
        // A tagged field is at least its tag and its size.
        if count > self.left().checked_div(2).unwrap_or(0) {
            return Err(WalkError::Short { at });
        }
        self.add_elements(count)?;
        let mut last: Option<u32> = None;
        for _ in 0..count {
            let at = self.at;
            let tag = self.number()?;
            // SECURITY: the decoder keeps the last of equal tags and casts to i32; the protocol has them rising.
            if last.is_some_and(|last| tag <= last) || i32::try_from(tag).is_err() {
                return Err(WalkError::Tag { at });
            }
            last = Some(tag);
            let size = usize::try_from(self.number()?).unwrap_or(usize::MAX);
            if size > self.left() {
                return Err(WalkError::Short { at });
            }
            let end = self.at.saturating_add(size);
            match known.iter().find(|field| field.tag == tag) {
                None => self.skip(size)?,
                Some(field) if (field.since..=field.until).contains(&self.version) => {
                    // SECURITY: the decoder ignores a known tag's size; here it must be the value's.
                    self.value(&field.shape, true, depth)?;
                    if self.at != end {
                        return Err(WalkError::Tag { at });
                    }
                }
                Some(_) => return Err(WalkError::Tag { at }),
            }
        }
        Ok(())
    }

    /// The fewest bytes one value of this shape takes.
    fn smallest(&self, shape: &'static Shape, compact: bool, depth: usize) -> Result<usize, WalkError> {
        if depth > DEPTH_MAX {
            return Err(WalkError::Depth);
        }
        Ok(match shape {
            Shape::Fixed(size) => *size,
            Shape::Text { .. } => {
                if compact {
                    1
                } else {
                    2
                }
            }
            Shape::Blob { .. } | Shape::Array { .. } => {
                if compact {
                    1
                } else {
                    4
                }
            }
            Shape::Option(_) => 1,
            Shape::Struct(layout) => {
                let compact = self.version >= layout.flexible_since;
                let mut sum = usize::from(compact);
                for field in layout.fields {
                    if (field.since..=field.until).contains(&self.version) {
                        sum = sum.saturating_add(self.smallest(&field.shape, compact, depth.saturating_add(1))?);
                    }
                }
                sum
            }
        })
    }

    fn add_elements(&mut self, count: usize) -> Result<(), WalkError> {
        self.elements = self.elements.saturating_add(count);
        if self.elements > ELEMENTS_MAX { Err(WalkError::Elements { max: ELEMENTS_MAX }) } else { Ok(()) }
    }

    /// A length or count; `None` is null.
    fn length(&mut self, compact: bool, width: Width, nullable: bool, array: bool) -> Result<Option<usize>, WalkError> {
        let at = self.at;
        let claimed = if compact {
            i64::from(self.number()?).saturating_sub(1)
        } else {
            match width {
                Width::Two => i64::from(i16::from_be_bytes(self.fixed()?)),
                Width::Four => i64::from(i32::from_be_bytes(self.fixed()?)),
            }
        };
        #[cfg(test)]
        self.claims.push(Claim { at, width: self.at - at, compact, array });
        #[cfg(not(test))]
        let _ = array;
        match claimed {
            -1 if nullable => Ok(None),
            -1 => Err(WalkError::Null { at }),
            0..=0x7fff_ffff => usize::try_from(claimed).map(Some).map_err(|_| WalkError::Length { at }),
            _ => Err(WalkError::Length { at }),
        }
    }

    /// An unsigned variable-length number of at most 32 bits.
    fn number(&mut self) -> Result<u32, WalkError> {
        let at = self.at;
        let mut value = 0_u32;
        for shift in [0_u32, 7, 14, 21, 28] {
            let byte = self.byte()?;
            // SECURITY: the decoder takes a fifth byte of any value and drops its high bits.
            if shift == 28 && byte > 0x0f {
                return Err(WalkError::Number { at });
            }
            value |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WalkError::Number { at })
    }

    fn byte(&mut self) -> Result<u8, WalkError> {
        let [byte] = self.fixed()?;
        Ok(byte)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WalkError> {
        let at = self.at;
        let bytes = self.bytes.get(at..).and_then(|rest| rest.first_chunk()).ok_or(WalkError::Short { at })?;
        self.at = at.saturating_add(N);
        Ok(*bytes)
    }

    fn skip(&mut self, count: usize) -> Result<(), WalkError> {
        if count > self.left() {
            return Err(WalkError::Short { at: self.at });
        }
        self.at = self.at.saturating_add(count);
        Ok(())
    }
}

enum Width {
    Two,
    Four,
}

#[cfg(test)]
#[path = "walk_tests.rs"]
mod tests;
