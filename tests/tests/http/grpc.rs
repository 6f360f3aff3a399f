//! gRPC by tonic: its connections leave by GOAWAY, and its client notices nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use handoff_tests::grpc::{COUNT, PID, Text};
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::service::{Service, TIMEOUT};

fn channel(service: &Service, runtime: &Runtime) -> Channel {
    let _inside = runtime.enter();
    Endpoint::from_shared(format!("http://{}", service.address)).expect("it is one").connect_lazy()
}

/// The pid of the process that answers.
async fn pid(channel: &mut Grpc<Channel>) -> Result<u32, Status> {
    channel.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = PID.parse().expect("it is a path");
    let reply = channel.unary(Request::new(String::new()), path, Text).await?;
    Ok(reply.into_inner().parse().expect("it is a pid"))
}

/// Reads a stream of so many texts to its end, all of one process.
async fn count(channel: &mut Grpc<Channel>, texts: u32) -> Result<(), Status> {
    channel.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
    let path = COUNT.parse().expect("it is a path");
    let request = Request::new(texts.to_string());
    let mut stream = channel.server_streaming(request, path, Text).await?.into_inner();
    let mut read = 0;
    while let Some(text) = stream.message().await? {
        assert!(text.starts_with(&format!("{read} ")), "{text}");
        read += 1;
    }
    assert_eq!(read, texts, "the stream was cut");
    Ok(())
}

#[test]
fn no_call_fails_through_twenty_swaps_unary_or_streaming() {
    let mut service = Service::start_always(&["grpc"]);
    let runtime = Runtime::new().expect("it starts");
    let (stop, all) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|client| {
            let mut grpc = Grpc::new(channel(&service, &runtime));
            let (stop, all) = (Arc::clone(&stop), Arc::clone(&all));
            runtime.spawn(async move {
                let mut unsent = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    let call = async {
                        if client % 2 == 0 {
                            pid(&mut grpc).await.map(drop)
                        } else {
                            count(&mut grpc, 5).await
                        }
                    };
                    match timeout(TIMEOUT, call).await.expect("it is answered") {
                        Ok(()) => drop(all.fetch_add(1, Ordering::SeqCst)),
                        // It was not sent: the client asks again, and the service has not begun it.
                        Err(status) => {
                            let is_unsent = [Code::Unavailable, Code::Unknown, Code::Cancelled];
                            assert!(is_unsent.contains(&status.code()), "{status:?}");
                            unsent += 1;
                        }
                    }
                }
                unsent
            })
        })
        .collect();
    service.twenty_swaps(&all, 50, |_| ());
    stop.store(true, Ordering::Relaxed);
    let unsent = clients.into_iter().map(|client| runtime.block_on(client).expect("it ends"));
    let (unsent, all) = (unsent.sum::<u64>(), all.load(Ordering::SeqCst));
    println!("{all} calls, {unsent} that the client did not send");
    assert!(unsent <= 8 * 20, "{unsent} of {all}: more than one for each client and swap");
    assert_eq!(service.counts_at_the_end()[1], all, "each call that was begun was answered");
}
