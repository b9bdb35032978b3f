from tests.contract.test_streaming import *
from tests.contract.conftest import *
def test_dbg(api, scripts, server):
    scripted = repeated(scripts, failures=2)
    scripted.open()
    stream = post(api, scripted).read()
    for r in stream.received: print(str(r.event)[:150])
    print([ (q.step,q.attempt,q.served,q.stream) for q in scripted.requests])
    w=watch(api, stream.worker_id)
    api.client.delete("/api/workers/"+stream.worker_id)
    scripted = scripts.held()
    stream = post(api, scripted).wait_for("start-step")
    watching = watch(api, stream.worker_id).wait_for("start-step")
    api.client.delete("/api/workers/"+stream.worker_id)
    print(stream.read().types, watching.read().types)
    print(server.log_path.read_text())
    assert 0
