//! Compares the manifest's rows with the sums that were sealed when they were written. Reads only.
//!
//! In: the key of proofs. Out: what is in doubt, and the sums as they are and as they were.
//!
//! What is compared, in this order: the tables, indexes and triggers with those of the format (a trigger of somebody else's would write
//! in our name); every index with its table (a row that an index does not lead to is a row taken away); every row with the sums.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use rusqlite::Connection;
use rusqlite::types::ValueRef;
use schloss_crypto::IntegrityKey;
use schloss_crypto::integrity::PROOF_BYTES;

use super::rows::column;
use super::sums::{INSTALLATION, Owner, Sums, binding, owner_of, row_bytes};
use super::{FORMAT, format_of, lay_out, translate};
use crate::{Doubt, MetadataError};

/// The table of sealed sums.
pub const PROOFS: &str = "proofs";
/// What a doubt about the tables themselves names.
const SCHEMA: &str = "sqlite_schema";
/// What a doubt about an index or a page names.
const INDEXES: &str = "indexes";

/// A table: its columns, and which of them says whose a row is.
pub struct Table {
    pub name: Arc<str>,
    pub columns: Vec<String>,
    pub tenant: Option<usize>,
}

/// What was sealed of one owner.
#[derive(Clone, Default)]
pub struct Stored {
    /// The sums; none when its row is not there or does not open.
    pub sums: Option<Sums>,
    /// Proof of its row in the table of proofs, if there is one.
    pub row: Option<[u8; PROOF_BYTES]>,
}

/// What an examination found.
pub struct Examined {
    pub doubts: Vec<Doubt>,
    pub stored: HashMap<Owner, Stored>,
}

/// Everything but the sealed sums, read once.
pub fn examine(sql: &Connection, key: &IntegrityKey) -> Result<Examined, MetadataError> {
    let unproved = |what: &str| {
        let doubts = vec![Doubt { tenant: None, table: what.to_owned() }];
        Ok(Examined { doubts, stored: HashMap::new() })
    };
    if format_of(sql)? != FORMAT {
        // Of an earlier format, or made to look so: there are no sums.
        return unproved(PROOFS);
    }
    if !has_our_schema(sql)? {
        return unproved(SCHEMA);
    }
    if !is_sound(sql)? {
        return unproved(INDEXES);
    }
    let (stored, proofs) = stored(sql, key)?;
    let Some(installation) = stored.get(&INSTALLATION).and_then(|stored| stored.sums.as_ref()) else {
        return unproved(PROOFS);
    };
    let mut found = scan(sql, key)?;
    found.insert(INSTALLATION, merged(found.get(&INSTALLATION), &proofs));
    let mut doubts: Vec<Doubt> = Vec::new();
    let owners: BTreeSet<&Owner> = found.keys().chain(stored.keys()).collect();
    let none = Sums::default();
    for owner in owners {
        let there = found.get(owner).unwrap_or(&none);
        let differing = if *owner == INSTALLATION {
            installation.differing(there)
        } else {
            match stored.get(owner) {
                Some(Stored { sums: Some(sums), .. }) => sums.differing(there),
                // Its row of sums is not what was written: nothing of it is proved.
                Some(_) => vec![PROOFS.into()],
                None => none.differing(there),
            }
        };
        let tenant = super::sums::tenant_of(owner);
        doubts.extend(differing.into_iter().map(|table| Doubt { tenant, table: table.to_string() }));
    }
    Ok(Examined { doubts, stored })
}

fn merged(one: Option<&Sums>, proofs: &[[u8; PROOF_BYTES]]) -> Sums {
    let (mut sums, table) = (one.cloned().unwrap_or_default(), PROOFS.into());
    for proof in proofs {
        sums.add(&table, proof);
    }
    sums
}

/// The sealed sums, and the proofs of their rows but for the installation's own.
type Sealed = (HashMap<Owner, Stored>, Vec<[u8; PROOF_BYTES]>);

fn stored(sql: &Connection, key: &IntegrityKey) -> Result<Sealed, MetadataError> {
    let mut statement = sql.prepare("SELECT tenant, sealed FROM proofs").map_err(translate)?;
    let mut rows = statement.query([]).map_err(translate)?;
    let (mut stored, mut proofs) = (HashMap::new(), Vec::new());
    while let Some(row) = rows.next().map_err(translate)? {
        let values = [row.get_ref(0).map_err(translate)?, row.get_ref(1).map_err(translate)?];
        let proof = key.row_proof(&row_bytes(PROOFS, values.into_iter()));
        let (owner, sealed): (Option<Owner>, _) = match values {
            [ValueRef::Blob(owner), ValueRef::Blob(sealed)] => (owner.try_into().ok(), sealed),
            _ => (None, &[][..]),
        };
        let owner = owner.filter(|owner| super::sums::tenant_of(owner).is_some() || *owner == INSTALLATION);
        // A row of nobody is still a row more than was written.
        let Some(owner) = owner else {
            proofs.push(proof);
            continue;
        };
        if owner != INSTALLATION {
            proofs.push(proof);
        }
        let sums = key.open_sums(&binding(&owner), sealed).ok().and_then(|bytes| Sums::from_bytes(&bytes));
        stored.insert(owner, Stored { sums, row: Some(proof) });
    }
    Ok((stored, proofs))
}

/// What the rows of every owner add up to, but for the table of proofs.
pub fn scan(sql: &Connection, key: &IntegrityKey) -> Result<HashMap<Owner, Sums>, MetadataError> {
    let mut all: HashMap<Owner, Sums> = HashMap::new();
    for table in tables(sql)? {
        add_rows(sql, key, &table, &mut all)?;
    }
    Ok(all)
}

fn add_rows(
    sql: &Connection,
    key: &IntegrityKey,
    table: &Table,
    all: &mut HashMap<Owner, Sums>,
) -> Result<(), MetadataError> {
    let mut statement = sql.prepare(&format!("SELECT * FROM \"{}\"", table.name)).map_err(translate)?;
    let mut rows = statement.query([]).map_err(translate)?;
    while let Some(row) = rows.next().map_err(translate)? {
        let values = (0..table.columns.len()).map(|index| row.get_ref(index)).collect::<Result<Vec<_>, _>>();
        let values = values.map_err(translate)?;
        let owner = table.tenant.and_then(|index| values.get(index)).map_or(INSTALLATION, |tenant| owner_of(*tenant));
        let proof = key.row_proof(&row_bytes(&table.name, values.iter().copied()));
        all.entry(owner).or_default().add(&table.name, &proof);
    }
    Ok(())
}

/// Every table of ours but that of the proofs.
pub fn tables(sql: &Connection) -> Result<Vec<Table>, MetadataError> {
    let mut names = sql
        .prepare("SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND name <> ?1 ORDER BY name")
        .map_err(translate)?;
    let mut rows = names.query([PROOFS]).map_err(translate)?;
    let mut tables = Vec::new();
    while let Some(row) = rows.next().map_err(translate)? {
        let name: String = column(row, 0)?;
        let mut info = sql.prepare("SELECT name FROM pragma_table_info(?1) ORDER BY cid").map_err(translate)?;
        let columns = info.query_map([&name], |row| row.get(0)).map_err(translate)?;
        let columns = columns.collect::<Result<Vec<String>, _>>().map_err(translate)?;
        let tenant = columns.iter().position(|column| column == "tenant");
        tables.push(Table { name: name.into(), columns, tenant });
    }
    Ok(tables)
}

/// Whether the file has the tables and indexes of its format, and nothing else: no trigger, no view.
pub fn has_our_schema(sql: &Connection) -> Result<bool, MetadataError> {
    let reference = Connection::open_in_memory().map_err(translate)?;
    lay_out(&reference, format_of(sql)?)?;
    Ok(schema(sql)? == schema(&reference)?)
}

type Named = (String, String, String);

fn schema(sql: &Connection) -> Result<BTreeMap<Named, Option<String>>, MetadataError> {
    let mut statement = sql.prepare("SELECT type, name, tbl_name, sql FROM main.sqlite_schema").map_err(translate)?;
    let rows =
        statement.query_map([], |row| Ok(((row.get(0)?, row.get(1)?, row.get(2)?), row.get(3)?))).map_err(translate)?;
    rows.collect::<Result<_, _>>().map_err(translate)
}

/// Whether every index agrees with its table and every page with its neighbours.
fn is_sound(sql: &Connection) -> Result<bool, MetadataError> {
    let found: String = sql.query_row("PRAGMA main.integrity_check(1)", [], |row| row.get(0)).map_err(translate)?;
    Ok(found == "ok")
}
