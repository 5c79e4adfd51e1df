//! Print the keys that begin with the first argument, and each change of them. Survives restarts of the server.

use kvserver_client::blocking::Client;
use kvserver_client::{Change, WatchState};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let prefix = std::env::args().nth(1).unwrap_or_default();
    let client = Client::from_env()?; // KVSERVER_URL, else http://localhost:8080
    let say = |state| match state {
        WatchState::Waiting(why, time) => eprintln!("{why}; back in {time:?}"),
        _ => eprintln!("connected"),
    };
    for change in client.watch(&prefix).snapshot().on_state(say).start()? {
        match change? {
            Change::Put { key, value, .. } => {
                println!("PUT {key} = {}", String::from_utf8_lossy(&value.unwrap_or_default()));
            }
            Change::Delete { key, cause, .. } => println!("DELETE {key} ({cause})"),
            Change::Synced { .. } => println!("that is all there is; now for the changes"),
            _ => {}
        }
    }
    Ok(())
}
