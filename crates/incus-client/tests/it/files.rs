//! Files inside instances, on a real server.

use bytes::Bytes;
use incus_client::files::{FileKind, NewFile};
use incus_client::{Client, Upload};
use stapes_testing::{TestProject, pair};

use crate::support::clients;

fn upload(text: &'static str) -> Upload {
    Upload::from(Bytes::from_static(text.as_bytes()))
}

async fn write(client: &Client, path: &str, kind: FileKind, mode: u32, text: &'static str) {
    let new = NewFile { kind, uid: 1000, gid: 1001, mode };
    client.write_instance_file("web", path, new, upload(text)).await.unwrap();
}

#[tokio::test]
async fn files_folders_and_links_are_made_in_a_running_and_in_a_stopped_container() {
    let project = TestProject::new(pair()).unwrap();
    let (client, _) = clients(&project);
    let scope = project.source();
    scope.launch("web").unwrap();
    for folder in ["/running", "/stopped"] {
        write(&client, folder, FileKind::Directory, 0o1750, "").await;
        write(&client, &format!("{folder}/ä b?&"), FileKind::File, 0o4640, "text").await;
        write(&client, &format!("{folder}/empty"), FileKind::File, 0o600, "").await;
        write(&client, &format!("{folder}/full"), FileKind::File, 0o600, "").await;
        write(&client, &format!("{folder}/full"), FileKind::File, 0o444, "over").await;
        write(&client, &format!("{folder}/gone"), FileKind::File, 0o444, "x").await;
        write(&client, &format!("{folder}/link"), FileKind::Symlink, 0o777, "../etc/x").await;
        client.delete_instance_file("web", &format!("{folder}/gone")).await.unwrap();
        for (name, kind) in
            [("", FileKind::Directory), ("/empty", FileKind::File), ("/link", FileKind::Symlink)]
        {
            let found = client.instance_file_kind("web", &format!("{folder}{name}")).await;
            assert_eq!(found.unwrap(), kind, "{name}");
        }
        for missing in ["gone", "none/at/all"] {
            let path = format!("{folder}/{missing}");
            let error = client.instance_file_kind("web", &path).await.unwrap_err();
            assert!(error.is_not_found(), "{error}");
        }
        if folder == "/running" {
            scope.state("web", "stop", true).unwrap();
        }
    }
    scope.state("web", "start", false).unwrap();
    let list = "cd $1; stat -c '%n %F %u:%g %a' . *; cat full; readlink link";
    for folder in ["/running", "/stopped"] {
        let listed = scope.exec("web", &["sh", "-c", list, "sh", folder]).unwrap();
        let expected = ". directory 1000:1001 750\n\
                        empty regular empty file 1000:1001 600\n\
                        full regular file 1000:1001 600\n\
                        link symbolic link 0:0 777\n\
                        ä b?& regular file 1000:1001 640\n\
                        over../etc/x\n";
        assert_eq!(listed, expected, "{folder}");
    }
}
