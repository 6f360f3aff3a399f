//! The todos, in a file of redb. Each change is on the disk when its call returns.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use handoff::drainable::digest_reader;
use handoff::{Error, Shard};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition};
use serde::Serialize;
use tokio::sync::watch;

const TODOS: TableDefinition<'_, u64, (&str, bool)> = TableDefinition::new("todos");
const CHANGES: TableDefinition<'_, (), u64> = TableDefinition::new("changes"); // their number

#[derive(Clone)]
pub(crate) struct Store(Arc<Opened>);

struct Opened {
    path: PathBuf,
    database: RwLock<Option<Database>>, // none while it is sealed
    /// The number of changes, and a digest of the todos, when it was last opened or sealed.
    mark: Mutex<(u64, [u8; 32])>,
    changes: watch::Sender<()>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Todo {
    id: u64,
    text: String,
    is_done: bool,
}

impl Store {
    pub(crate) fn open(path: &Path) -> handoff::Result<Self> {
        let (path, database, mark) = (path.to_owned(), RwLock::default(), Mutex::default());
        let store =
            Self(Arc::new(Opened { path, database, mark, changes: watch::Sender::new(()) }));
        store.resume()?;
        Ok(store)
    }

    /// Tells of each change.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    pub(crate) fn list(&self) -> Result<Vec<Todo>, redb::Error> {
        self.with(list)
    }

    pub(crate) fn add(&self, text: String) -> Result<Todo, redb::Error> {
        let added = self.write(|todos| {
            let id = todos.last()?.map_or(1, |(id, _)| id.value() + 1);
            todos.insert(id, (&*text, false))?;
            Ok(Some(Todo { id, text, is_done: false }))
        })?;
        added.ok_or(redb::Error::DatabaseClosed)
    }

    pub(crate) fn change(&self, id: u64, is_done: bool) -> Result<Option<Todo>, redb::Error> {
        self.write(|todos| {
            let Some(text) = todos.get(id)?.map(|todo| todo.value().0.to_owned()) else {
                return Ok(None);
            };
            todos.insert(id, (&*text, is_done))?;
            Ok(Some(Todo { id, text, is_done }))
        })
    }

    pub(crate) fn remove(&self, id: u64) -> Result<Option<Todo>, redb::Error> {
        self.write(|todos| Ok(todos.remove(id)?.map(|todo| todo_of(id, todo.value()))))
    }

    fn write(
        &self,
        change: impl FnOnce(&mut Table<'_, u64, (&str, bool)>) -> Result<Option<Todo>, redb::Error>,
    ) -> Result<Option<Todo>, redb::Error> {
        self.with(|database| {
            let transaction = database.begin_write()?;
            let changed = change(&mut transaction.open_table(TODOS)?)?;
            count_change(&mut transaction.open_table(CHANGES)?)?;
            transaction.commit()?; // syncs the file
            self.0.changes.send_replace(());
            Ok(changed)
        })
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, redb::Error> {
        let database = self.0.database.read().unwrap_or_else(PoisonError::into_inner);
        work(database.as_ref().ok_or(redb::Error::DatabaseClosed)?)
    }
}

fn list(database: &Database) -> Result<Vec<Todo>, redb::Error> {
    let table = database.begin_read()?.open_table(TODOS)?;
    let mut todos = Vec::new();
    for entry in table.iter()? {
        let (id, todo) = entry?;
        todos.push(todo_of(id.value(), todo.value()));
    }
    Ok(todos)
}

fn todo_of(id: u64, (text, is_done): (&str, bool)) -> Todo {
    Todo { id, text: text.to_owned(), is_done }
}

fn count_change(changes: &mut Table<'_, (), u64>) -> Result<(), redb::Error> {
    let count = changes.get(())?.map_or(0, |count| count.value());
    changes.insert((), count + 1)?;
    Ok(())
}

fn mark_of(database: &Database) -> handoff::Result<(u64, [u8; 32])> {
    let read = || -> Result<_, redb::Error> {
        let changes = database.begin_read()?.open_table(CHANGES)?.get(())?;
        Ok((changes.map_or(0, |count| count.value()), list(database)?))
    };
    let (changes, todos) = read().map_err(Error::other)?;
    Ok((changes, digest_reader(format!("{todos:?}").as_bytes())?))
}

impl Shard for Store {
    fn seal(&self) -> handoff::Result<u64> {
        let mut opened = self.0.database.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(database) = &*opened {
            let mark = mark_of(database)?;
            *self.0.mark.lock().unwrap_or_else(PoisonError::into_inner) = mark;
        }
        *opened = None; // closes the file: the next process opens it
        Ok(self.revision())
    }

    fn revision(&self) -> u64 {
        self.0.mark.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    fn fingerprint(&self) -> handoff::Result<[u8; 32]> {
        Ok(self.0.mark.lock().unwrap_or_else(PoisonError::into_inner).1)
    }

    fn resume(&self) -> handoff::Result<()> {
        let mut opened = self.0.database.write().unwrap_or_else(PoisonError::into_inner);
        if opened.is_none() {
            let database = Database::create(&self.0.path).map_err(Error::other)?;
            create_tables(&database).map_err(Error::other)?;
            let mark = mark_of(&database)?;
            *self.0.mark.lock().unwrap_or_else(PoisonError::into_inner) = mark;
            self.0.changes.send_replace(());
            *opened = Some(database);
        }
        Ok(())
    }
}

fn create_tables(database: &Database) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    transaction.open_table(TODOS)?;
    transaction.open_table(CHANGES)?;
    Ok(transaction.commit()?)
}
