//! Takes a snapshot of an instance that the server never deletes by itself.
//!
//!     cargo run --example snapshot -- /var/lib/incus/unix.socket default web before-upgrade

#![expect(clippy::print_stdout, reason = "an example's purpose is to print")]

use std::time::Duration;

use incus_client::snapshots::NewSnapshot;
use incus_client::{Client, ErrorKind, WaitOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, project, instance, name] = arguments.as_slice() else {
        return Err("usage: snapshot SOCKET PROJECT INSTANCE NAME".into());
    };
    let client = Client::unix(socket)?.with_project(project);
    let snapshot = NewSnapshot::lasting(name);
    let taken = async {
        let mut operation = client.create_instance_snapshot(instance, &snapshot).await?;
        operation.wait(&WaitOptions::default().deadline(Duration::from_secs(300))).await
    };
    match taken.await {
        Ok(_) => {}
        Err(error) if error.detail_kind() == ErrorKind::Exists => println!("it exists already"),
        Err(error) => return Err(error.into()),
    }
    let read = client.instance_snapshot(instance, name).await?.value;
    println!("{instance}/{} taken at {:?}", read.name, read.created_at);
    Ok(())
}
