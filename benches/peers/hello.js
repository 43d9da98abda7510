// The least that a worker can do: it reads the body and says hello.
export default {
  async fetch(request) {
    await request.arrayBuffer();
    return new Response('"hello"', { headers: { "content-type": "application/json" } });
  },
};
