//! Store, read, change and list.

use kvserver_client::blocking::Client;
use kvserver_client::{codes, DeletePrefix, Error, List, Value};
use std::time::Duration;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::from_env()?; // KVSERVER_URL, else http://localhost:8080

    let first = client.put("rest/theme", "dark").send()?;
    let entry = client.get("rest/theme")?.expect("it was just stored");
    println!("{} = {:?}, {}", entry.key, entry.text()?, entry.content_type);

    client.put("rest/theme", "light").if_revision(first.revision).send()?;
    match client.put("rest/theme", "blue").if_revision(first.revision).send() {
        Err(Error::Refused(why)) if why.code() == codes::PRECONDITION_FAILED => println!("another write came first"),
        other => println!("unexpected: {other:?}"),
    }

    client.put("rest/flag", Value::json(&serde_json::json!({"on": true}))?).ttl(Duration::from_secs(60)).send()?;
    let patched = client.patch("rest/flag", &serde_json::json!({"share": 10}))?;
    println!("flag = {}", patched.json::<serde_json::Value>()?);
    println!("visits = {}", client.incr("rest/visits", 1)?);

    for item in client.scan(&List::prefix("rest/")) {
        let item = item?;
        println!("{} has {} bytes", item.key, item.size);
    }
    println!("{} deleted", client.delete_prefix(&DeletePrefix::of("rest/"))?.count);
    Ok(())
}
