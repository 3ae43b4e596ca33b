//! Every resource, read and changed on a real server.

use incus_client::instances::{InstanceStatus, InstanceType, StateChange};
use incus_client::projects::{Profile, Project};
use incus_client::snapshots::NewSnapshot;
use incus_client::volumes::{NewVolume, VolumeContent};
use incus_client::{ErrorKind, Expiry, ListOptions, Operation};
use serde_json::json;
use stapes_testing::{TestProject, pair};

use crate::support::{clients, eventually, patient, unix};

async fn done(operation: incus_client::Result<Operation>) {
    operation.unwrap().wait(&patient()).await.unwrap();
}

#[tokio::test]
async fn an_instance_is_listed_changed_renamed_and_deleted() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    project.source().launch("web").unwrap();
    project.source().volume("local", "data").unwrap();
    project.source().attach("local", "data", "web", "/data").unwrap();

    let running = ListOptions::default().filter("status eq Running");
    let listed = client.instances(&running).await.unwrap();
    assert_eq!(listed.len(), 1);
    let web = &listed[0];
    assert_eq!((web.name.as_str(), web.project.as_str()), ("web", project.name()));
    assert_eq!((&web.kind, &web.status), (&InstanceType::Container, &InstanceStatus::Running));
    assert_eq!(web.root_pool(), Some("local"));
    assert_eq!(web.attached_volumes().collect::<Vec<_>>(), [("data", "local", "data")]);
    assert_eq!(web.state.as_ref().unwrap().status, InstanceStatus::Running);
    let all = client.with_project("default").instances(&ListOptions::all_projects()).await.unwrap();
    assert!(all.iter().any(|instance| instance.project == project.name()));
    let none = client.instances(&ListOptions::default().filter("name eq a&b=c")).await.unwrap();
    assert!(none.is_empty());

    let read = client.instance("web").await.unwrap();
    let mut put = read.value.to_put();
    put.config.insert("user.note".to_owned(), "ünïcode & more?".to_owned());
    done(client.update_instance("web", &put, read.etag.as_ref()).await).await;
    let stale = client.update_instance("web", &put, read.etag.as_ref()).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Conflict, "{stale}");
    let patch = json!({ "config": { "user.other": "x" } });
    done(client.patch_instance("web", &patch, None).await).await;
    let changed = client.instance("web").await.unwrap().value;
    assert_eq!(changed.config["user.note"], "ünïcode & more?");
    assert_eq!(changed.config["user.other"], "x");
    assert_eq!(changed.devices, read.value.devices);

    let busy = client.delete_instance("web").await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy, "{busy}");
    let stop = StateChange::Stop { timeout_seconds: Some(20) };
    done(client.set_instance_state("web", stop).await).await;
    assert_eq!(client.instance_state("web").await.unwrap().status, InstanceStatus::Stopped);
    done(client.rename_instance("web", "shop").await).await;
    done(client.set_instance_state("shop", StateChange::Start).await).await;
    done(client.set_instance_state("shop", StateChange::ForceStop).await).await;
    done(client.delete_instance("shop").await).await;
    assert!(client.instance("shop").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn instance_snapshots_are_taken_changed_restored_and_deleted() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    project.source().create("web").unwrap();
    // What the instance says of expiry must not leak into snapshots that are to last.
    let patch = json!({ "config": { "snapshots.expiry": "1d" } });
    done(client.patch_instance("web", &patch, None).await).await;
    done(client.create_instance_snapshot("web", &NewSnapshot::lasting("lasting")).await).await;
    let ordinary = NewSnapshot { name: "ordinary".to_owned(), ..NewSnapshot::default() };
    done(client.create_instance_snapshot("web", &ordinary).await).await;
    let at = "2040-01-02T03:04:05Z".parse().unwrap();
    let dated = NewSnapshot { expires: Expiry::At(at), name: "dated".to_owned(), ..ordinary };
    done(client.create_instance_snapshot("web", &dated).await).await;

    let read = client.instance_snapshot("web", "lasting").await.unwrap();
    assert_eq!(read.value.expires_at, None);
    assert!(read.value.created_at.is_some() && !read.value.stateful);
    let ordinary = client.instance_snapshot("web", "ordinary").await.unwrap().value;
    assert!(ordinary.expires_at.is_some());
    let dated = client.instance_snapshot("web", "dated").await.unwrap().value;
    assert_eq!(dated.expires_at, Some(at));
    let never = Expiry::Never;
    done(client.set_instance_snapshot_expiry("web", "dated", never, None).await).await;
    assert_eq!(client.instance_snapshot("web", "dated").await.unwrap().value.expires_at, None);

    let listed = client.instance_snapshots("web").await.unwrap();
    let embedded = client.instance("web").await.unwrap().value.snapshots;
    let names = |list: &[incus_client::snapshots::InstanceSnapshot]| {
        let mut names: Vec<_> = list.iter().map(|snapshot| snapshot.name.clone()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&listed), ["dated", "lasting", "ordinary"]);
    assert_eq!(names(&embedded), names(&listed));

    project.source().write("local", "web", "later", b"x").unwrap();
    done(client.restore_instance("web", "lasting").await).await;
    assert!(!project.source().rootfs("local", "web").join("later").exists());
    done(client.rename_instance_snapshot("web", "lasting", "renamed").await).await;
    done(client.delete_instance_snapshot("web", "renamed").await).await;
    let gone = client.delete_instance_snapshot("web", "renamed").await.unwrap_err();
    assert!(gone.is_not_found(), "{gone}");
}

#[tokio::test]
async fn volumes_carry_their_snapshots_whatever_the_server_lists() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    let mut new = NewVolume::empty("data", VolumeContent::Filesystem);
    new.config.insert("user.a".to_owned(), "1".to_owned());
    done(client.create_volume("local", &new).await).await;
    let exists = client.create_volume("local", &new).await.unwrap_err();
    assert_eq!(exists.kind(), ErrorKind::Exists, "{exists}");
    done(client.create_volume("local", &NewVolume::empty("disk", VolumeContent::Block)).await)
        .await;
    let at = "2040-01-02T03:04:05Z".parse().unwrap();
    let dated = NewSnapshot { expires: Expiry::At(at), ..NewSnapshot::lasting("s1") };
    done(client.create_volume_snapshot("local", "data", &dated).await).await;
    done(client.create_volume_snapshot("local", "data", &NewSnapshot::lasting("s2")).await).await;

    let check = |volumes: &[incus_client::volumes::Volume]| {
        let data = volumes
            .iter()
            .find(|volume| volume.project == project.name() && volume.name == "data")
            .unwrap();
        let snapshots: Vec<_> =
            data.snapshots.iter().map(|s| (s.name.as_str(), s.expires_at)).collect();
        assert_eq!(snapshots, [("s1", Some(at)), ("s2", None)]);
        assert!(data.snapshots.iter().all(|snapshot| snapshot.created_at.is_some()));
        assert_eq!((data.pool.as_str(), data.config["user.a"].as_str()), ("local", "1"));
    };
    let mine = client.volumes("local", &ListOptions::default()).await.unwrap();
    assert_eq!(mine.len(), 2);
    check(&mine);
    let elsewhere = client.with_project("default");
    check(&elsewhere.volumes("local", &ListOptions::all_projects()).await.unwrap());
    let read = client.volume("local", "data").await.unwrap();
    check(std::slice::from_ref(&read.value));

    let mut put = read.value.to_put();
    put.description = "new".to_owned();
    // The server's tag covers the configuration only, not the description.
    put.config.insert("user.c".to_owned(), "3".to_owned());
    done(client.update_volume("local", "data", &put, read.etag.as_ref()).await).await;
    let stale = client.update_volume("local", "data", &put, read.etag.as_ref()).await;
    assert_eq!(stale.unwrap_err().kind(), ErrorKind::Conflict);
    let patch = json!({ "config": { "user.b": "2" }, "description": "new" });
    done(client.patch_volume("local", "data", &patch, None).await).await;
    let changed = client.volume("local", "data").await.unwrap().value;
    assert_eq!((changed.description.as_str(), changed.config["user.b"].as_str()), ("new", "2"));

    let never = Expiry::Never;
    done(client.update_volume_snapshot("local", "data", "s1", "kept", never, None).await).await;
    let s1 = client.volume_snapshot("local", "data", "s1").await.unwrap().value;
    assert_eq!((s1.expires_at, s1.description.as_str()), (None, "kept"));
    project.source().write_volume("local", "data", "later", b"x").unwrap();
    done(client.restore_volume("local", "data", "s2").await).await;
    assert!(!project.source().volume_path("local", "data").join("later").exists());
    done(client.rename_volume_snapshot("local", "data", "s1", "s0").await).await;
    done(client.delete_volume_snapshot("local", "data", "s0").await).await;
    done(client.rename_volume("local", "data", "moved").await).await;
    done(client.delete_volume("local", "moved").await).await;
    assert!(client.volume("local", "moved").await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn projects_and_profiles_are_created_changed_and_deleted() {
    let admin = unix(&pair().target, "default");
    let name = format!("p{}", std::process::id());
    let features = ["images", "profiles", "storage.volumes", "storage.buckets"];
    let config = features.map(|feature| (format!("features.{feature}"), "true".to_owned()));
    let new = Project { name: name.clone(), config: config.into(), ..Project::default() };
    admin.create_project(&new).await.unwrap();
    let again = admin.create_project(&new).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Exists, "{again}");
    let mut read = admin.read_project(&name).await.unwrap();
    assert!(read.value.has_feature("profiles") && !read.value.has_feature("networks"));
    read.value.description = "changed".to_owned();
    admin.update_project(&read.value, read.etag.as_ref()).await.unwrap();
    let listed = admin.projects().await.unwrap();
    assert!(listed.iter().any(|p| p.name == name && p.description == "changed"));

    let client = admin.with_project(&name);
    let config = [("limits.memory".to_owned(), "64MiB".to_owned())].into();
    let profile = Profile { name: "small".to_owned(), config, ..Profile::default() };
    client.create_profile(&profile).await.unwrap();
    let mut read = client.profile("small").await.unwrap();
    read.value.description = "changed".to_owned();
    client.update_profile(&read.value, read.etag.as_ref()).await.unwrap();
    client.rename_profile("small", "tiny").await.unwrap();
    let listed = client.profiles(&ListOptions::default()).await.unwrap();
    let tiny = listed.iter().find(|profile| profile.name == "tiny").unwrap();
    assert_eq!((tiny.description.as_str(), &tiny.config), ("changed", &profile.config));
    client.delete_profile("tiny").await.unwrap();
    assert!(client.profile("tiny").await.unwrap_err().is_not_found());
    admin.delete_project(&name).await.unwrap();
    eventually("the project is gone", async || {
        Ok(admin.read_project(&name).await.is_err_and(|error| error.is_not_found()))
    })
    .await;
}

#[tokio::test]
async fn pools_networks_and_configuration_are_read() {
    let client = unix(&pair().target, "default");
    let pools = client.storage_pools().await.unwrap();
    let driver = |name| pools.iter().find(|pool| pool.name == name).unwrap().driver.as_str();
    assert_eq!((driver("local"), driver("plain")), ("btrfs", "dir"));
    let space = client.storage_pool_resources("local").await.unwrap().space;
    assert!(space.total > space.used && space.used > 0);
    assert!(client.storage_pool("none").await.unwrap_err().is_not_found());
    let networks = client.networks(&ListOptions::all_projects()).await.unwrap();
    assert!(networks.iter().any(|network| network.name == "lo" && !network.managed));
    assert!(!client.network("lo").await.unwrap().value.managed);

    let patch = [("user.note".to_owned(), "here".to_owned())].into();
    client.patch_server(&patch, None).await.unwrap();
    assert_eq!(client.server().await.unwrap().config["user.note"], "here");
}
