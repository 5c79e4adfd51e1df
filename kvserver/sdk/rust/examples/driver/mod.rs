// The conformance driver, for either client: the including example defines `wait!`, `Client`, `Lines` and `channel`.
//
// It reads one JSON request a line from standard input and writes one JSON line for each answer. The functions are
// `async` in both variants; with the blocking client they never suspend.

use base64::prelude::{Engine, BASE64_STANDARD};
use kvserver_client::{
    Change, DeletePrefix, Entry, Error, Expiry, Grant, IfChanged, Item, List, Next, OnGap, Op, OpResult, Transport, Value,
};
use serde_json::{json, Value as Json};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether standard input has ended.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// What a request ended with.
enum Answer {
    Ok(Json),
    Failed(Error),
    /// What the client's types cannot say, so that no request can hold it.
    Unsayable(&'static str),
    Unsupported,
}

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

type Reply = Result<Json, Answer>;

fn write_line(line: &Json) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).expect("standard output is open");
}

fn text<'a>(args: &'a Json, name: &str) -> &'a str {
    args[name].as_str().unwrap_or_default()
}

fn seconds(args: &Json, name: &str) -> Result<Option<Duration>, Answer> {
    let Some(number) = args[name].as_f64() else { return Ok(None) };
    Duration::try_from_secs_f64(number).map(Some).map_err(|_| Answer::Unsayable("a duration is not negative"))
}

fn flag(args: &Json, name: &str) -> bool {
    args[name].as_bool().unwrap_or_default()
}

fn texts(args: &Json, name: &str) -> Vec<String> {
    let list = args[name].as_array().cloned().unwrap_or_default();
    list.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

fn time_json(time: Option<kvserver_client::Timestamp>) -> Json {
    time.map_or(Json::Null, |time| time.to_string().into())
}

fn value_of(args: &Json) -> Value {
    let mut value = if args["json"].is_null() && args.get("json").is_none() {
        Value::from(BASE64_STANDARD.decode(text(args, "value_base64")).expect("base64"))
    } else {
        Value::json(&args["json"]).expect("JSON")
    };
    if let Some(content_type) = args["content_type"].as_str() {
        value = value.with_content_type(content_type);
    }
    value
}

fn expiry_of(args: &Json) -> Result<Expiry, Answer> {
    match (seconds(args, "ttl")?, args["expires"].as_str()) {
        (Some(_), Some(_)) => Err(Answer::Unsayable("a key has one expiry")),
        (Some(ttl), None) => Ok(Expiry::After(ttl)),
        (None, Some(expires)) => expires.parse().map(Expiry::At).map_err(|_| Answer::Unsayable("not a time")),
        (None, None) => Ok(Expiry::Never),
    }
}

fn entry_json(entry: &Entry) -> Json {
    json!({
        "key": entry.key, "value_base64": base64(&entry.value), "revision": entry.revision,
        "content_type": entry.content_type, "expires": time_json(entry.expires), "modified": time_json(entry.modified),
    })
}

fn entry_or_null(entry: Option<&Entry>) -> Json {
    entry.map_or(Json::Null, entry_json)
}

fn item_json(item: &Item) -> Json {
    let mut json = json!({
        "key": item.key, "revision": item.revision, "size": item.size, "content_type": item.content_type,
        "expires": time_json(item.expires),
    });
    if let Some(value) = &item.value {
        json["value_base64"] = base64(value).into();
    }
    json
}

fn result_json(result: &OpResult) -> Json {
    let mut json = json!({"status": result.status});
    if let Some(revision) = result.revision {
        json["revision"] = revision.into();
    }
    if let Some(code) = &result.code {
        json["code"] = code.clone().into();
    }
    if let Some(value) = &result.value {
        json["value_base64"] = base64(value).into();
        json["result"] = match serde_json::from_slice(value) {
            Ok(Json::Number(number)) => number.to_string().into(), // as `incr` answers: 64 bits
            result => result.unwrap_or(Json::Null),
        };
    }
    json
}

fn results_json(results: &[OpResult]) -> Json {
    results.iter().map(result_json).collect()
}

fn error_json(error: &Error) -> Json {
    let half = match error {
        Error::Refused(_) => "refused",
        Error::OutcomeUnknown(_) => "unknown",
        _ => "other",
    };
    let mut json = json!({
        "half": half, "code": error.code(), "status": error.status(), "revision": error.revision(),
        "detail": error.to_string(),
    });
    if let Error::Refused(refused) = error {
        if let Some(failed) = refused.failed() {
            json["failed"] = failed.into();
            json["results"] = results_json(refused.results());
        }
    }
    json
}

fn list_of(args: &Json) -> List {
    let mut list = List::prefix(text(args, "prefix"));
    if let Some(after) = args["after"].as_str() {
        list = list.after(after);
    }
    if let Some(before) = args["before"].as_str() {
        list = list.before(before);
    }
    if let Some(limit) = args["limit"].as_u64() {
        list = list.limit(limit as u32);
    }
    if flag(args, "reverse") {
        list = list.reverse();
    }
    if flag(args, "values") {
        list = list.values();
    }
    if let Some(delimiter) = args["delimiter"].as_str() {
        list = list.delimiter(delimiter);
    }
    list
}

fn op_of(op: &Json) -> Result<Op, Answer> {
    let key = text(op, "key");
    let mut built = match text(op, "op") {
        "get" => Op::get(key),
        "put" => match op["value"].as_str() {
            Some(value) => {
                let content_type = op["content_type"].as_str().unwrap_or("text/plain; charset=utf-8");
                Op::put(key, Value::from(value).with_content_type(content_type))
            }
            None => Op::put(key, value_of(op)),
        },
        "patch" => Op::patch(key, &op["patch"]).map_err(|_| Answer::Unsupported)?,
        "incr" => Op::incr(key, op["by"].as_i64().unwrap_or(1)),
        "touch" => Op::touch(key, expiry_of(op)?),
        "delete" => Op::delete(key),
        _ => return Err(Answer::Unsupported),
    };
    if text(op, "op") == "put" {
        built = built.expires(expiry_of(op)?);
    }
    if let Some(ttl) = seconds(op, "ttl_if_new")? {
        built = built.ttl_if_new(ttl);
    }
    if let Some(revision) = op["if_revision"].as_u64() {
        built = built.if_revision(revision);
    }
    Ok(built)
}

fn change_json(change: &Change, cursor: Option<&str>) -> Json {
    let mut json = match change {
        Change::Put { key, value, size, revision, time, content_type, expires, snapshot, .. } => {
            let mut json = json!({
                "kind": "put", "key": key, "revision": revision, "time": time_json(*time), "content_type": content_type,
                "expires": time_json(*expires), "origin": if *snapshot { "snapshot" } else { "live" },
            });
            match value {
                Some(value) => json["value_base64"] = base64(value).into(),
                None => json["size"] = (*size).into(),
            }
            json
        }
        Change::Touch { key, revision, expires, .. } => {
            json!({"kind": "touch", "key": key, "revision": revision, "expires": time_json(*expires)})
        }
        Change::Delete { key, revision, cause, .. } => {
            json!({"kind": "delete", "key": key, "revision": revision, "cause": cause})
        }
        Change::Reset { reason, snapshot } => json!({"kind": "reset", "reason": reason, "snapshot": snapshot}),
        Change::Synced { .. } => json!({"kind": "synced"}),
        Change::Activity { op, subject, .. } => json!({"kind": "activity", "op": op, "key": subject}),
        _ => json!({"kind": "of a newer client"}),
    };
    json["cursor"] = cursor.map_or(Json::Null, Into::into);
    json
}

#[allow(clippy::while_let_on_iterator)] // a stream in the other variant
async fn reads(client: &Client, verb: &str, args: &Json) -> Reply {
    let key = text(args, "key");
    Ok(match verb {
        "get" => match args["range"].as_array() {
            Some(range) => {
                let first = range[0].as_u64().ok_or(Answer::Unsupported)?;
                entry_or_null(wait!(client.get_range(key, first, range[1].as_u64()))?.as_ref())
            }
            None => entry_or_null(wait!(client.get(key))?.as_ref()),
        },
        "head" => wait!(client.head(key))?.map_or(Json::Null, |meta| {
            json!({
                "size": meta.size, "revision": meta.revision, "content_type": meta.content_type,
                "expires": time_json(meta.expires),
            })
        }),
        "get_if_changed" => {
            let revision = args["revision"].as_u64().ok_or(Answer::Unsupported)?;
            match wait!(client.get_if_changed(key, revision))? {
                IfChanged::Unchanged => "unchanged".into(),
                IfChanged::Absent => Json::Null,
                IfChanged::Changed(entry) => entry_json(&entry),
            }
        }
        "get_many" => {
            let keys = texts(args, "keys");
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let found = wait!(client.get_many(&keys))?;
            found.into_iter().map(|(key, entry)| (key, entry_or_null(entry.as_ref()))).collect()
        }
        "page" => {
            let page = wait!(client.page(&list_of(args)))?;
            let items: Json = page.items.iter().map(item_json).collect();
            json!({"items": items, "prefixes": page.prefixes, "next": page.next, "cursor": page.cursor})
        }
        "scan" => {
            let (mut scan, mut items) = (client.scan(&list_of(args)), Vec::new());
            while let Some(item) = wait!(scan.next()) {
                items.push(item_json(&item?));
            }
            json!({"items": items})
        }
        "count" => json!({"count": wait!(client.count(text(args, "prefix")))?}),
        "status" => wait!(client.status())?.json,
        "whoami" => wait!(client.whoami())?,
        "ping" => {
            wait!(client.ping())?;
            json!({})
        }
        "repeat" => {
            // Get or put a key `count` times, for benchmarks.
            let (key, value) = (text(args, "key"), value_of(args));
            let begun = std::time::Instant::now();
            for _ in 0..args["count"].as_u64().unwrap_or(0) {
                if text(args, "verb") == "get" {
                    wait!(client.get(key))?;
                } else {
                    wait!(client.put(key, value.clone()).send())?;
                }
            }
            json!({"seconds": begun.elapsed().as_secs_f64()})
        }
        "ticket" => {
            let ticket = if args["grants"].is_array() {
                let grants: Vec<Grant> = serde_json::from_value(args["grants"].clone()).expect("grants");
                wait!(client.ticket_for_keys(&grants, args["ttl"].as_f64().map(Duration::from_secs_f64)))?
            } else {
                wait!(client.ticket(text(args, "for")))?
            };
            json!({"ticket": ticket.ticket, "expires": ticket.expires})
        }
        _ => return Err(Answer::Unsupported),
    })
}

async fn writes(client: &Client, verb: &str, args: &Json) -> Reply {
    let (key, condition) = (text(args, "key"), args["if_revision"].as_u64());
    Ok(match verb {
        "put" | "create" => {
            let mut put = match verb {
                "put" => client.put(key, value_of(args)),
                _ => client.create(key, value_of(args)),
            };
            put = put.expires(expiry_of(args)?);
            if let Some(revision) = condition {
                put = put.if_revision(revision);
            }
            let written = wait!(put.send())?;
            json!({"revision": written.revision, "created": written.created})
        }
        "exchange" => {
            let mut exchange = client.exchange(key, value_of(args)).expires(expiry_of(args)?);
            if let Some(revision) = condition {
                exchange = exchange.if_revision(revision);
            }
            let exchanged = wait!(exchange.send())?;
            json!({"revision": exchanged.revision, "previous": entry_or_null(exchanged.previous.as_ref())})
        }
        "patch" => {
            let patched = match condition {
                Some(revision) => wait!(client.patch_if(key, &args["patch"], revision))?,
                None => wait!(client.patch(key, &args["patch"]))?,
            };
            json!({"revision": patched.revision, "value": patched.json::<Json>().expect("JSON")})
        }
        "incr" => {
            let by = args["by"].as_i64().unwrap_or(1);
            let value = match seconds(args, "ttl_if_new")? {
                Some(ttl) => wait!(client.incr_with_ttl(key, by, ttl))?,
                None => wait!(client.incr(key, by))?,
            };
            json!({"value": value.to_string()})
        }
        "touch" => {
            let expiry = expiry_of(args)?;
            let revision = match condition {
                Some(revision) => wait!(client.touch_if(key, expiry, revision))?,
                None => wait!(client.touch(key, expiry))?,
            };
            json!({"revision": revision})
        }
        "delete" => {
            let deleted = match condition {
                Some(revision) => wait!(client.delete_if(key, revision))?,
                None => wait!(client.delete(key))?,
            };
            json!({"deleted": deleted})
        }
        _ => return Err(Answer::Unsupported),
    })
}

async fn many(client: &Client, verb: &str, args: &Json) -> Reply {
    Ok(match verb {
        "delete_prefix" => {
            let mut what = if flag(args, "all") { DeletePrefix::everything() } else { DeletePrefix::of(text(args, "prefix")) };
            if flag(args, "dry_run") {
                what = what.dry_run();
            }
            if let Some(limit) = args["limit"].as_u64() {
                what = what.limit(limit);
            }
            let deleted = wait!(client.delete_prefix(&what))?;
            json!({"deleted": deleted.count, "complete": deleted.complete})
        }
        "batch" | "atomic" => {
            let ops = args["ops"].as_array().ok_or(Answer::Unsupported)?;
            let ops = ops.iter().map(op_of).collect::<Result<Vec<Op>, Answer>>()?;
            let results = if verb == "batch" {
                wait!(client.batch(&ops))?
            } else {
                let atomic = ops.into_iter().fold(client.atomic(), |atomic, op| atomic.op(op));
                wait!(atomic.commit())?
            };
            json!({"results": results_json(&results)})
        }
        "update" => {
            let (with, added) = (text(args, "with").to_owned(), text(args, "text").to_owned());
            let next = move |entry: Option<&Entry>| match with.as_str() {
                "append" => {
                    let old = entry.map(|entry| entry.value.clone()).unwrap_or_default();
                    Next::Put([old, added.clone().into_bytes()].concat().into())
                }
                "increment" => {
                    let old: i64 = entry.and_then(|entry| entry.text().ok()?.parse().ok()).unwrap_or(0);
                    Next::Put((old + 1).to_string().into_bytes().into())
                }
                "delete" => Next::Delete,
                _ => Next::Keep,
            };
            entry_or_null(wait!(client.update(text(args, "key"), next))?.as_ref())
        }
        _ => return Err(Answer::Unsupported),
    })
}

async fn watch(client: &Client, id: &Json, args: &Json) -> Reply {
    let mut request = client.watch("");
    for prefix in texts(args, "prefixes") {
        request = request.prefix(prefix);
    }
    for key in texts(args, "keys") {
        request = request.key(key);
    }
    if flag(args, "snapshot") {
        request = request.snapshot();
    }
    if let Some(since) = args["since"].as_str() {
        request = request.since(since);
    }
    match &args["ops"] {
        Json::String(ops) => request = request.ops(ops.clone()),
        Json::Array(_) => request = request.ops(texts(args, "ops").join(",")),
        _ => {}
    }
    if args["values"] == json!(false) {
        request = request.without_values();
    }
    if flag(args, "activity") {
        request = request.activity();
    }
    if flag(args, "conflate") {
        request = request.conflate();
    }
    if args["on_gap"] == "continue" {
        request = request.on_gap(OnGap::Continue);
    }
    if args["transport"] == "websocket" {
        #[cfg(not(feature = "ws"))]
        return Err(Answer::Unsupported);
        #[cfg(feature = "ws")]
        {
            request = request.transport(Transport::WebSocket);
        }
    } else {
        request = request.transport(Transport::Lines);
    }
    let mut left = args["count"].as_u64().unwrap_or(u64::MAX);
    let mut watch = wait!(request.start())?;
    write_line(&json!({"id": id, "ready": true}));
    while left > 0 && !CLOSED.load(Ordering::Relaxed) {
        let Some(change) = wait!(watch.next_timeout(Duration::from_millis(200)))? else { continue };
        write_line(&json!({"id": id, "change": change_json(&change, watch.cursor())}));
        left -= 1;
        if flag(args, "until_synced") && matches!(change, Change::Synced { .. }) {
            break;
        }
    }
    Ok(json!({"cursor": watch.cursor()}))
}

#[cfg(feature = "ws")]
async fn wal(client: &Client, id: &Json, args: &Json) -> Reply {
    let mut wal = wait!(client.wal())?;
    write_line(&json!({"id": id, "ready": true}));
    let mut left = args["count"].as_u64().unwrap_or(u64::MAX);
    while left > 0 && !CLOSED.load(Ordering::Relaxed) {
        let Some(line) = wait!(wal.next_timeout(Duration::from_millis(200)))? else { continue };
        write_line(&json!({"id": id, "line": line}));
        left -= 1;
    }
    Ok(json!({}))
}

#[cfg(not(feature = "ws"))]
async fn wal(_: &Client, _: &Json, _: &Json) -> Reply {
    Err(Answer::Unsupported)
}

fn with_options(client: &Client, args: &Json) -> Result<Client, Answer> {
    let mut client = client.clone();
    if let Some(timeout) = seconds(args, "timeout")? {
        client = client.with_timeout(timeout);
    }
    if let Some(patience) = seconds(args, "patience")? {
        client = client.with_patience(patience);
    }
    if let Some(idempotency) = args["idempotency"].as_bool() {
        client = client.with_idempotency(idempotency);
    }
    Ok(client)
}

async fn handle(client: &mut Client, request: &Json) -> Reply {
    let (id, args) = (&request["id"], &request["args"]);
    let verb = text(request, "do");
    match verb {
        "options" => {
            *client = with_options(client, args)?;
            Ok(json!({}))
        }
        "watch" => watch(client, id, args).await,
        "wal" => wal(client, id, args).await,
        "put" | "create" | "exchange" | "patch" | "incr" | "touch" | "delete" => writes(client, verb, args).await,
        "delete_prefix" | "batch" | "atomic" | "update" => many(client, verb, args).await,
        _ => reads(client, verb, args).await,
    }
}

async fn drive() {
    let mut client = Client::from_env().expect("KVSERVER_URL is a URL");
    let lines = &mut channel(|sender| {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
        CLOSED.store(true, Ordering::Relaxed);
    });
    while let Some(line) = receive!(lines) {
        if line.trim().is_empty() {
            continue;
        }
        let request: Json = serde_json::from_str(&line).expect("a JSON request");
        let id = &request["id"];
        match handle(&mut client, &request).await.map_or_else(|answer| answer, Answer::Ok) {
            Answer::Ok(ok) => write_line(&json!({"id": id, "ok": ok})),
            Answer::Failed(error) => write_line(&json!({"id": id, "error": error_json(&error)})),
            Answer::Unsayable(detail) => {
                let error = json!({"half": "refused", "code": "bad_request", "status": null, "detail": detail});
                write_line(&json!({"id": id, "error": error}));
            }
            Answer::Unsupported => write_line(&json!({"id": id, "unsupported": true})),
        }
    }
}
