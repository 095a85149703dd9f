//! Keeps the sums of the manifest's rows true while they change, and seals them in the same transaction.
//!
//! In: every row that is written or removed, told by triggers of this connection ([`watch`]). Out: rows of the table `proofs`.
//!
//! Invariants
//! - What is committed agrees with its sealed sums; a process that dies leaves both or neither.
//! - An owner whose rows were in doubt stays in doubt: changes are added to what was sealed, never to what was found. Only
//!   [`Keeper::renew`] (everything of it was shredded) and an operator's acceptance begin anew.
//! - Triggers are of the connection (`TEMP`) and made from the tables as they are: a new table or column is covered by itself.
//!
//! Must not: be open to the file's own triggers; [`super::scan`] refuses those.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::functions::FunctionFlags;
use rusqlite::types::{Null, ValueRef};
use rusqlite::{Connection, params};
use schloss_crypto::IntegrityKey;

use super::scan::{self, PROOFS, Stored, tables};
use super::sums::{INSTALLATION, Owner, Sums, binding, owner_of, row_bytes};
use super::translate;
use crate::MetadataError;

/// The name by which triggers tell of a row: (rows more or less, table, tenant, columns…).
const FUNCTION: &str = "schloss_row";

/// The keeper of a connection; none until the manifest is proved.
#[derive(Clone, Default)]
pub struct Keeping(Arc<Mutex<Option<Keeper>>>);

impl Keeping {
    pub fn lock(&self) -> MutexGuard<'_, Option<Keeper>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sums of all owners, in memory as they are sealed.
pub struct Keeper {
    key: Arc<IntegrityKey>,
    owners: HashMap<Owner, Stored>,
    /// What owners touched by the present transaction were before it.
    before: HashMap<Owner, Option<Stored>>,
}

impl Keeper {
    /// Goes on from what was sealed.
    pub fn new(key: Arc<IntegrityKey>, owners: HashMap<Owner, Stored>) -> Self {
        Self { key, owners, before: HashMap::new() }
    }

    /// Seals the rows as they are.
    pub fn accept(sql: &Connection, key: Arc<IntegrityKey>) -> Result<Self, MetadataError> {
        sql.execute("DELETE FROM proofs", []).map_err(translate)?;
        let found = scan::scan(sql, &key)?;
        let owners = found.into_iter().map(|(owner, sums)| (owner, Stored { sums: Some(sums), row: None }));
        let mut keeper = Self::new(key, owners.collect());
        let all: Vec<Owner> = keeper.owners.keys().copied().collect();
        for owner in all {
            keeper.remember(owner);
        }
        keeper.remember(INSTALLATION);
        keeper.seal(sql)?;
        keeper.committed();
        Ok(keeper)
    }

    /// The owner's sums, to be changed in the present transaction.
    fn remember(&mut self, owner: Owner) -> &mut Stored {
        let before = self.owners.get(&owner);
        self.before.entry(owner).or_insert_with(|| before.cloned());
        // An owner that had no row has sums of nothing.
        self.owners.entry(owner).or_insert_with(|| Stored { sums: Some(Sums::default()), row: None })
    }

    fn row(&mut self, more: bool, table: &Arc<str>, owner: Owner, row: &[u8]) {
        let proof = self.key.row_proof(row);
        let Some(sums) = &mut self.remember(owner).sums else { return };
        if more { sums.add(table, &proof) } else { sums.take(table, &proof) }
    }

    /// An owner of which everything was destroyed: what is left of it (objects yet to be erased) is what there is.
    pub fn renew(&mut self, sql: &Connection, owner: Owner) -> Result<(), MetadataError> {
        let found = scan::scan(sql, &self.key)?.remove(&owner).unwrap_or_default();
        self.remember(owner).sums = Some(found);
        Ok(())
    }

    /// Writes the sums that the present transaction changed. The last thing in it.
    pub fn seal(&mut self, sql: &Connection) -> Result<(), MetadataError> {
        if self.before.is_empty() {
            return Ok(());
        }
        self.remember(INSTALLATION);
        let table: Arc<str> = PROOFS.into();
        let touched: Vec<Owner> = self.before.keys().copied().filter(|owner| *owner != INSTALLATION).collect();
        for owner in touched {
            let Some(Stored { sums: Some(sums), row }) = self.owners.get(&owner) else { continue };
            let old = *row;
            let new = if sums.is_empty() {
                sql.prepare_cached("DELETE FROM proofs WHERE tenant = ?1")
                    .and_then(|mut statement| statement.execute(params![owner]))
                    .map_err(translate)?;
                None
            } else {
                Some(self.write(sql, owner, sums)?)
            };
            if let Some(stored) = self.owners.get_mut(&owner) {
                stored.row = new;
            }
            if let Some(Stored { sums: Some(sums), .. }) = self.owners.get_mut(&INSTALLATION) {
                if let Some(old) = old {
                    sums.take(&table, &old);
                }
                if let Some(new) = new {
                    sums.add(&table, &new);
                }
            }
        }
        if let Some(Stored { sums: Some(sums), .. }) = self.owners.get(&INSTALLATION) {
            self.write(sql, INSTALLATION, sums)?;
        }
        Ok(())
    }

    /// Writes an owner's row; returns its proof.
    fn write(&self, sql: &Connection, owner: Owner, sums: &Sums) -> Result<[u8; 32], MetadataError> {
        let sealed = self.key.seal_sums(&binding(&owner), &sums.to_bytes());
        sql.prepare_cached(
            "INSERT INTO proofs (tenant, sealed) VALUES (?1, ?2) ON CONFLICT (tenant) DO UPDATE SET sealed = ?2",
        )
        .and_then(|mut statement| statement.execute(params![owner, sealed]))
        .map_err(translate)?;
        let columns = [ValueRef::Blob(&owner), ValueRef::Blob(&sealed)];
        Ok(self.key.row_proof(&row_bytes(PROOFS, columns.into_iter())))
    }

    /// The transaction stands. Owners without a row left need no memory.
    pub fn committed(&mut self) {
        for (owner, _) in self.before.drain() {
            if self.owners.get(&owner).is_some_and(|stored| stored.sums.as_ref().is_some_and(Sums::is_empty)) {
                self.owners.remove(&owner);
            }
        }
    }

    /// The transaction never was.
    pub fn rolled_back(&mut self) {
        for (owner, before) in self.before.drain() {
            match before {
                Some(before) => drop(self.owners.insert(owner, before)),
                None => drop(self.owners.remove(&owner)),
            }
        }
    }
}

/// Has the connection tell `keeping` of every row that comes or goes.
pub fn watch(connection: &Connection, keeping: &Keeping) -> Result<(), MetadataError> {
    let told = keeping.clone();
    // Neither DETERMINISTIC, which would let it be left out, nor DIRECTONLY, which triggers may not call.
    let tell = move |context: &mut rusqlite::functions::Context<'_>| {
        let text = |index| context.get_raw(index).as_str().map(Arc::<str>::from);
        let (more, table) = (context.get_raw(0).as_i64()? > 0, text(1)?);
        let owner = match context.get_raw(2) {
            ValueRef::Null => INSTALLATION,
            tenant => owner_of(tenant),
        };
        let columns = (FIXED..context.len()).map(|index| context.get_raw(index));
        let row = row_bytes(&table, columns);
        if let Some(keeper) = told.lock().as_mut() {
            keeper.row(more, &table, owner, &row);
        }
        Ok(Null)
    };
    connection.create_scalar_function(FUNCTION, -1, FunctionFlags::SQLITE_UTF8, tell).map_err(translate)?;
    // A row that REPLACE puts out of the way is told only with recursive triggers.
    let mut all = "PRAGMA temp_store = MEMORY; PRAGMA recursive_triggers = ON;".to_owned();
    for table in tables(connection)? {
        let name = &table.name;
        let call = |more: i32, of: &str| {
            let tenant = if table.tenant.is_some() { format!("{of}.tenant") } else { "NULL".to_owned() };
            let columns: String = table.columns.iter().map(|column| format!(", {of}.\"{column}\"")).collect();
            format!("SELECT {FUNCTION}({more}, '{name}', {tenant}{columns});")
        };
        let (new, old) = (call(1, "NEW"), call(-1, "OLD"));
        for (verb, told) in [("INSERT", new.clone()), ("DELETE", old.clone()), ("UPDATE", old + &new)] {
            all += &format!(
                "CREATE TEMP TRIGGER \"proof_{verb}_{name}\" AFTER {verb} ON main.\"{name}\" BEGIN {told} END;"
            );
        }
    }
    connection.execute_batch(&all).map_err(translate)
}

/// Arguments before the columns.
const FIXED: usize = 3;
