//! Lists instances and custom volumes of all projects with their snapshots.
//!
//!     cargo run --example inventory -- /var/lib/incus/unix.socket

#![expect(clippy::print_stdout, reason = "an example's purpose is to print")]

use incus_client::{Client, ListOptions};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let socket = std::env::args().nth(1).unwrap_or("/var/lib/incus/unix.socket".to_owned());
    let client = Client::unix(socket)?;
    let server = client.server().await?;
    println!("{} (Incus {})", server.environment.server_name, server.environment.server_version);

    let everything = ListOptions::all_projects();
    for instance in client.instances(&everything).await? {
        let pool = instance.root_pool().unwrap_or("-");
        println!("{}/{} {} on {pool}", instance.project, instance.name, instance.status);
        for snapshot in &instance.snapshots {
            println!("    {} {:?}", snapshot.name, snapshot.created_at);
        }
    }
    for pool in client.storage_pools().await? {
        let space = client.storage_pool_resources(&pool.name).await?.space;
        println!("pool {} ({}): {} of {} bytes", pool.name, pool.driver, space.used, space.total);
        for volume in client.volumes(&pool.name, &everything).await? {
            println!("    {}/{} {}", volume.project, volume.name, volume.content_type);
            for snapshot in &volume.snapshots {
                println!("        {} {:?}", snapshot.name, snapshot.created_at);
            }
        }
    }
    Ok(())
}
