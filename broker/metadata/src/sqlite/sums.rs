//! What the manifest's rows add up to: the byte form of a row, sums of row proofs by table, the byte form of sums.
//!
//! ```text
//! row    table's name (length u16, bytes) | each column in order: tag u8 and value
//!        0 null | 1 integer i64 | 2 real f64 | 3 text, 4 blob: length u32, bytes
//! sums   version 01 | each table that has rows, by name: name (length u8, bytes) | rows u64 | XOR of their proofs [32]
//! ```
//! All numbers are big-endian. The sums of an owner are sealed ([`schloss_crypto::IntegrityKey::seal_sums`]) under the binding
//! `manifest-sums` ‖ owner \[16\]: XOR of proofs that are known could be made to agree.
//!
//! Must not: know SQL or which tables there are.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rusqlite::types::ValueRef;
use schloss_core::TenantId;
use schloss_crypto::integrity::PROOF_BYTES;

/// Whose rows: a tenant's id, or [`INSTALLATION`].
pub type Owner = [u8; 16];

/// Owner of rows that are no tenant's.
pub const INSTALLATION: Owner = [0; 16];

const VERSION: u8 = 1;

/// The byte form of a row.
pub fn row_bytes<'v>(table: &str, columns: impl Iterator<Item = ValueRef<'v>>) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.extend_from_slice(&u16::try_from(table.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(table.as_bytes());
    for column in columns {
        match column {
            ValueRef::Null => out.push(0),
            ValueRef::Integer(number) => {
                out.push(1);
                out.extend_from_slice(&number.to_be_bytes());
            }
            ValueRef::Real(number) => {
                out.push(2);
                out.extend_from_slice(&number.to_bits().to_be_bytes());
            }
            ValueRef::Text(bytes) => put(&mut out, 3, bytes),
            ValueRef::Blob(bytes) => put(&mut out, 4, bytes),
        }
    }
    out
}

/// SQLite's values are below 2^31 bytes.
fn put(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Whose a row is, by its column `tenant`. What names no tenant is the installation's, so that it is missed by somebody.
pub fn owner_of(tenant: ValueRef<'_>) -> Owner {
    let tenant = match tenant {
        ValueRef::Integer(number) => u64::try_from(number).ok().and_then(TenantId::new),
        ValueRef::Blob(bytes) => bytes.try_into().ok().and_then(TenantId::from_bytes),
        ValueRef::Null | ValueRef::Real(_) | ValueRef::Text(_) => None,
    };
    tenant.map_or(INSTALLATION, TenantId::to_bytes)
}

/// The tenant an owner is; none for the installation.
pub fn tenant_of(owner: &Owner) -> Option<TenantId> {
    TenantId::from_bytes(*owner).filter(|_| *owner != INSTALLATION)
}

/// How many rows, and the XOR of their proofs. The number finds two equal rows, which a table without a primary key may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    rows: u64,
    xor: [u8; PROOF_BYTES],
}

impl Sum {
    fn fold(&mut self, proof: &[u8; PROOF_BYTES]) {
        for (sum, byte) in self.xor.iter_mut().zip(proof) {
            *sum ^= byte;
        }
    }
}

/// An owner's sums by table. A table without rows has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sums(BTreeMap<Arc<str>, Sum>);

impl Sums {
    /// A row more.
    pub fn add(&mut self, table: &Arc<str>, proof: &[u8; PROOF_BYTES]) {
        let sum = self.0.entry(Arc::clone(table)).or_default();
        sum.rows = sum.rows.wrapping_add(1);
        sum.fold(proof);
    }

    /// A row less.
    pub fn take(&mut self, table: &Arc<str>, proof: &[u8; PROOF_BYTES]) {
        let sum = self.0.entry(Arc::clone(table)).or_default();
        sum.rows = sum.rows.wrapping_sub(1);
        sum.fold(proof);
        if *sum == Sum::default() {
            self.0.remove(table);
        }
    }

    /// Whether there is no row at all.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Tables whose sums differ.
    pub fn differing(&self, other: &Self) -> Vec<Arc<str>> {
        let tables: BTreeSet<_> = self.0.keys().chain(other.0.keys()).collect();
        tables.into_iter().filter(|table| self.0.get(*table) != other.0.get(*table)).cloned().collect()
    }

    /// The byte form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        for (table, sum) in &self.0 {
            out.push(u8::try_from(table.len()).unwrap_or(u8::MAX));
            out.extend_from_slice(table.as_bytes());
            out.extend_from_slice(&sum.rows.to_be_bytes());
            out.extend_from_slice(&sum.xor);
        }
        out
    }

    /// The inverse of [`Sums::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (version, mut rest) = bytes.split_first()?;
        if *version != VERSION {
            return None;
        }
        let mut sums = BTreeMap::new();
        while let Some((length, after)) = rest.split_first() {
            let (table, after) = after.split_at_checked(usize::from(*length))?;
            let (rows, after) = after.split_first_chunk()?;
            let (xor, after) = after.split_first_chunk()?;
            let table: Arc<str> = std::str::from_utf8(table).ok()?.into();
            sums.insert(table, Sum { rows: u64::from_be_bytes(*rows), xor: *xor });
            rest = after;
        }
        Some(Self(sums))
    }
}

/// What the sums of an owner are bound to.
pub fn binding(owner: &Owner) -> Vec<u8> {
    [b"manifest-sums".as_slice(), owner].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn a_row_has_these_bytes() {
        let columns =
            [ValueRef::Null, ValueRef::Integer(-2), ValueRef::Real(1.0), ValueRef::Text(b"ab"), ValueRef::Blob(&[7])];
        assert_eq!(
            hex(&row_bytes("keys", columns.into_iter())),
            "00046b6579730001fffffffffffffffe023ff000000000000003000000026162040000000107"
        );
    }

    #[test]
    fn sums_have_these_bytes_and_are_read_back() {
        let mut sums = Sums::default();
        sums.add(&"state".into(), &[1; 32]);
        sums.add(&"state".into(), &[3; 32]);
        sums.add(&"keys".into(), &[4; 32]);
        let bytes = sums.to_bytes();
        let expected = format!("01046b657973{:016x}{}057374617465{:016x}{}", 1, "04".repeat(32), 2, "02".repeat(32));
        assert_eq!(hex(&bytes), expected);
        assert_eq!(Sums::from_bytes(&bytes), Some(sums));
        assert_eq!(Sums::from_bytes(&bytes[..bytes.len() - 1]), None);
        assert_eq!(Sums::from_bytes(&[2]), None);
    }

    #[test]
    fn rows_that_came_and_went_leave_nothing_and_two_equal_ones_do() {
        let (table, mut sums) = (Arc::from("cluster"), Sums::default());
        sums.add(&table, &[1; 32]);
        sums.add(&table, &[2; 32]);
        sums.take(&table, &[1; 32]);
        sums.take(&table, &[2; 32]);
        assert!(sums.is_empty());
        sums.add(&table, &[9; 32]);
        sums.add(&table, &[9; 32]);
        assert_eq!(sums.differing(&Sums::default()), vec![table]);
    }

    #[test]
    fn a_row_of_no_tenant_is_the_installations() {
        assert_eq!(owner_of(ValueRef::Integer(7)), TenantId::new(7).unwrap().to_bytes());
        assert_eq!(
            owner_of(ValueRef::Blob(&TenantId::new(7).unwrap().to_bytes())),
            TenantId::new(7).unwrap().to_bytes()
        );
        for odd in [
            ValueRef::Null,
            ValueRef::Integer(-1),
            ValueRef::Integer(i64::MAX),
            ValueRef::Text(b"7"),
            ValueRef::Blob(&[7; 16]),
        ] {
            assert_eq!(owner_of(odd), INSTALLATION);
        }
    }
}
