//! The manual's example: stores a value, reads it, watches its prefix.

use kvserver_client::blocking::Client;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let kv = Client::from_env()?; // KVSERVER_URL, else http://localhost:8080
    kv.put("greeting", "hello").send()?;
    println!("{}", kv.get("greeting")?.expect("just stored").text()?);
    for change in kv.watch("greet").snapshot().start()?.take(2) {
        println!("{:?}", change?);
    }
    Ok(())
}
