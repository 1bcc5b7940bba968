// Ask the service, and yield its server-sent events as objects.

export async function* labels(form, token, signal) {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const answer = await fetch("/v1/audio/transcriptions", { method: "POST", body: form, headers, signal });
  if (!answer.ok) throw await failure(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const events = text.split("\n\n");
    text = events.pop();
    for (const one of events) {
      if (!one.startsWith("data: ")) continue;
      const event = JSON.parse(one.slice(6));
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function failure(answer) {
  const error = new Error(`the service answered ${answer.status}`);
  error.status = answer.status;
  try {
    error.message = (await answer.json()).error.message;
  } catch { /* no JSON: a proxy's page */ }
  return error;
}
