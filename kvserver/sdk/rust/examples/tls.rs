//! Talk to a server behind TLS whose certificate an authority of one's own has signed: `tls URL AUTHORITY.der`.

use kvserver_client::{asynchronous, blocking, Transport};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(path)) = (arguments.next(), arguments.next()) else {
        return Err("tls URL AUTHORITY.der".into());
    };
    let authority = std::fs::read(path)?;

    let client = blocking::Client::builder().url(&url).root_certificate(authority.clone()).build()?;
    client.put("tls/blocking", "secret").send()?;
    for transport in [Transport::Lines, Transport::WebSocket] {
        let mut watch = client.watch("tls/").snapshot().transport(transport).start()?;
        watch.find(|change| change.as_ref().is_ok_and(|change| change.key() == Some("tls/blocking")));
        println!("blocking: {transport:?}");
    }

    let client = asynchronous::Client::builder().url(&url).root_certificate(authority).build()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        client.put("tls/asynchronous", "secret").await?;
        for transport in [Transport::Lines, Transport::WebSocket] {
            let mut watch = client.watch("tls/").snapshot().transport(transport).start().await?;
            while let Some(change) = watch.next().await {
                if change?.key() == Some("tls/asynchronous") {
                    break;
                }
            }
            println!("asynchronous: {transport:?}");
        }
        Ok(())
    })
}
