//! A list of things to do, over HTTP and WebSocket: axum, with a database on the disk. A swap closes no
//! connection.

mod store;

use std::env;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, put};
use axum::{Json, Router};
use handoff::daemon::Daemon;
use handoff::http::{Http, Server, ws};
use store::{Store, Todo};

#[derive(handoff::Drainable)]
struct App {
    #[handoff(serve)]
    http: Http, // a drain waits for the handlers, and hands the connections over
    store: Store, // a shard: the old process seals it, the new one verifies it
}

fn main() -> handoff::Result<()> {
    let [_, control, data] = &*Vec::from_iter(env::args()) else { panic!("todo CONTROL DATA") };
    Daemon::new(control, data).run_tokio(
        async |_warm| Ok(()),
        async |(), opening| {
            let store = Store::open(&opening.data_dir().join("todo.redb"))?;
            let (of_lives, router) = (store.clone(), router(store.clone()));
            let lives = ws::WebSockets::new(move |socket| live(socket, of_lives.clone()));
            let http = Server::new().websockets(lives).serve(opening, "http", router)?;
            Ok(App { http, store })
        },
    )?;
    Ok(())
}

fn router(store: Store) -> Router {
    Router::new()
        .route("/todos", get(list).post(add))
        .route("/todos/{id}", put(change).delete(remove))
        .route("/live", get(async |upgrade: ws::Upgrade<()>| upgrade.accept(())))
        .with_state(store)
}

/// Sends the list at once, in each process that gets the connection, and after each change.
async fn live(mut socket: ws::WebSocket<()>, store: Store) {
    let mut changes = store.changes();
    loop {
        changes.mark_unchanged();
        // While the store is sealed there is no list, and `recv` is about to return none.
        if let Ok(todos) = store.list() {
            let todos = serde_json::to_string(&todos).expect("it is JSON");
            if socket.send(todos).await.is_err() {
                return;
            }
        }
        tokio::select! {
            message = socket.recv() => if message.is_none() { return }, // over, or goes on elsewhere
            _ = changes.changed() => {}
        }
    }
}

type Reply<T> = Result<Json<T>, (StatusCode, String)>;

async fn list(State(store): State<Store>) -> Reply<Vec<Todo>> {
    reply(store.list().map(Some))
}

/// The reply is sent once the todo is on the disk.
async fn add(State(store): State<Store>, Json(text): Json<String>) -> Reply<Todo> {
    reply(tokio::task::block_in_place(|| store.add(text)).map(Some))
}

async fn change(
    State(store): State<Store>,
    Path(id): Path<u64>,
    Json(is_done): Json<bool>,
) -> Reply<Todo> {
    reply(tokio::task::block_in_place(|| store.change(id, is_done)))
}

async fn remove(State(store): State<Store>, Path(id): Path<u64>) -> Reply<Todo> {
    reply(tokio::task::block_in_place(|| store.remove(id)))
}

fn reply<T>(done: Result<Option<T>, redb::Error>) -> Reply<T> {
    match done {
        Ok(Some(done)) => Ok(Json(done)),
        Ok(None) => Err((StatusCode::NOT_FOUND, "there is no such todo".to_owned())),
        Err(error) => Err((StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}
