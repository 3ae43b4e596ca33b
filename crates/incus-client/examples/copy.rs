//! Copies an instance with its snapshots to another server, passing all data through this program.
//!
//!     cargo run --example copy -- SOURCE.socket web TARGET.socket web-copy local

#![expect(clippy::print_stdout, reason = "an example's purpose is to print")]

use incus_client::Client;
use incus_client::instances::NewInstance;
use incus_client::transfer::{Flags, Sink, Subject, Transfer, TransferOptions, relayed};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, name, target, copy, pool] = arguments.as_slice() else {
        return Err("usage: copy SOURCE_SOCKET INSTANCE TARGET_SOCKET COPY POOL".into());
    };
    let (from, to) = (Client::unix(source)?, Client::unix(target)?);
    let original = from.instance(name).await?.value;

    // What identifies the original on its own server must not be carried over.
    let keep = |key: &String| !key.starts_with("volatile.") || key == "volatile.base_image";
    let mut root = original.expanded_devices.get("root").cloned().unwrap_or_default();
    root.insert("pool".to_owned(), pool.clone());
    let sink = Sink::instance(NewInstance {
        name: copy.clone(),
        kind: original.kind,
        architecture: original.architecture,
        profiles: Some(Vec::new()),
        config: original.config.into_iter().filter(|(key, _)| keep(key)).collect(),
        devices: [("root".to_owned(), root)].into(),
        ..NewInstance::default()
    });
    let subject = Subject::instance(name);
    let flags = Flags::default();
    let transfer = Transfer { from: &from, subject: &subject, to: &to, sink: &sink, flags };
    let options = TransferOptions::default();
    let interrupt = options.cancel.clone();
    drop(tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            interrupt.cancel();
        }
    }));
    let done = relayed(&transfer, &options).await?;
    println!("{} bytes", done.bytes.unwrap_or_default());
    Ok(())
}
