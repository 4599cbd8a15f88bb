'use strict';
// A Zendesk and a Khoros that cost next to nothing, for all sides of the measurements: constant answers from one
// process. The sandbox's fakes behave like the real ones, but would take the processor from what is measured.
//
// GET /figures answers with what came in. POST /figures sets {mode: "ok" | "503" | "hung", latency_ms, per_minute}
// (per_minute 0: no limit), starts a new count, and lets the calls that hang go on in the new mode.

const http = require('node:http');

let mode = 'ok';
let latencyMs = 0;
let perMinute = 0;
let left = 0;
let windowEndsAt = 0; // a window begins with its first call, as Zendesk's does
let hanging = [];
let figures;
let lastTicket = 0;
const reset = () => (figures = { tickets: 0, calls: 0, limited: 0, arrived: [], first_ns: 0, last_ns: 0 });
const now = () => Number(process.hrtime.bigint()); // CLOCK_MONOTONIC, the clock of Python's time.perf_counter
reset();

function answer(response, status, payload, headers = {}) {
  const body = JSON.stringify(payload);
  response.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(body), ...headers });
  response.end(body);
}

function limited(response) {
  figures.calls += 1;
  if (!perMinute) return false;
  if (Date.now() >= windowEndsAt) {
    left = perMinute;
    windowEndsAt = Date.now() + 60_000;
  }
  const seconds = Math.ceil((windowEndsAt - Date.now()) / 1000);
  if (left <= 0) {
    figures.limited += 1;
    answer(response, 429, { error: 'APIRateLimitExceeded' }, { 'Retry-After': seconds });
    return true;
  }
  left -= 1;
  response.setHeader('X-Rate-Limit-Remaining', left);
  response.setHeader('ratelimit-reset', seconds);
  return false;
}

function count(tickets) {
  figures.tickets += tickets;
  figures.last_ns = now();
  figures.first_ns ||= figures.last_ns;
}

function create(body, arrivedNs, response) {
  count(1);
  const { external_id } = JSON.parse(body).ticket;
  if (figures.arrived.length < 5000) figures.arrived.push([external_id, arrivedNs]);
  lastTicket += 1;
  answer(response, 201, { ticket: { id: lastTicket, external_id } });
}

function createMany(body, response) {
  const { length } = JSON.parse(body).tickets;
  count(length);
  answer(response, 200, { job_status: { id: 'a1', status: 'queued', total: length } });
}

function zendesk(key, body, arrivedNs, response) {
  if (mode === 'hung') return hanging.push([key, body, arrivedNs, response]);
  if (response.destroyed) return;
  if (mode === '503') return answer(response, 503, { error: 'ServiceUnavailable' });
  if (limited(response)) return;
  if (key === 'POST /api/v2/tickets') return create(body, arrivedNs, response);
  if (key === 'POST /api/v2/tickets/create_many') return createMany(body, response);
  if (key === 'GET /api/v2/users/me') return answer(response, 200, { user: { id: 1, role: 'agent' } });
  if (key === 'GET /api/v2/tickets') return answer(response, 200, { tickets: [] });
  answer(response, 200, {});
}

function khoros(key, body, response) {
  if (key.includes('/data/')) return answer(response, 200, { data: [], status: { succeeded: true } });
  if (key.startsWith('GET ')) return answer(response, 200, { data: [subscription], status: { succeeded: true } });
  subscription = { ...JSON.parse(body || '{}'), uuid: 's-1', status: 'ACTIVE' };
  delete subscription.bearerToken;
  answer(response, 200, { data: subscription, status: { succeeded: true } });
}
let subscription = {};

function set(wanted) {
  mode = wanted.mode ?? 'ok';
  latencyMs = wanted.latency_ms ?? 0;
  perMinute = wanted.per_minute ?? 0;
  windowEndsAt = 0;
  reset();
  const waiting = hanging;
  hanging = [];
  for (const call of waiting) later(...call);
}

function later(...call) {
  if (latencyMs) return setTimeout(zendesk, latencyMs, ...call);
  zendesk(...call);
}

function route(key, body, response) {
  if (key.includes(' /v2/')) return khoros(key, body, response);
  if (key === 'POST /figures') set(JSON.parse(body));
  if (key.endsWith(' /figures')) return answer(response, 200, { ...figures, now_ns: now() });
  if (key === 'POST /oauth/tokens')
    return answer(response, 200, { access_token: 't', scope: 'tickets:read tickets:write', expires_in: 3600 });
  later(key, body, now(), response);
}

const server = http.createServer((request, response) => {
  let body = '';
  request.setEncoding('utf8');
  request.on('data', (piece) => (body += piece));
  request.on('end', () => route(`${request.method} ${request.url.split('?')[0]}`, body, response));
});
server.keepAliveTimeout = 95_000;
server.listen(Number(process.env.PORT), '127.0.0.1');
