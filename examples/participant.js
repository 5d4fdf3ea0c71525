// A participant in Node.js without any dependency, nothing of ours. A copy to start from, in any language.
//
//     node participant.js --port 9006 --data seats.journal --seats 100 --replica http://127.0.0.1:8001
//
// Its one action is `book {row, seats}`: each row of a hall has as many seats as were given. The numbers in the comments
// are those of "What a participant must keep" in docs/reference/participant-api.md. `commitd check-participant` tries
// whether they hold.
'use strict'

const fs = require('node:fs')
const http = require('node:http')
const path = require('node:path')
const { parseArgs } = require('node:util')

const NAME = 'hall'
const BODY_BYTES_MAX = 65_536 // of an action
const REQUEST_BYTES_MAX = BODY_BYTES_MAX + 1_024
const REQUEST_TIMEOUT_MS = 10_000
const GRACE_MS = 5_000 // a branch that is prepared for longer is asked for
const ASK_EVERY_MS = 1_000
const ASK_TIMEOUT_MS = 3_000
const CAPABILITIES = { // what is not said here, such as read_only and arrays, is never asked for
  name: NAME, version: 1, prevent: true, one_phase: true, body_bytes_max: BODY_BYTES_MAX, actions: ['book']
}

const { values: options } = parseArgs({
  options: {
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string' },
    data: { type: 'string' },
    seats: { type: 'string', default: '100' },
    replica: { type: 'string', multiple: true, default: [] }
  }
})

// ── The journal: one line for each change of a branch. What is in it after a crash is what is true. ──────────────────

const branches = new Map() // 'gid/branch' to the last line about it
const booked = new Map() // row to its seats that are taken
const holders = new Map() // 4: row to the one prepared branch that holds it
const journal = openJournal(options.data)

// Write a change, and only then let it be true. It is on the disk when this returns, so an answer is a fact. Nothing
// else runs meanwhile, so of two requests at once one comes first for both.
function record (change) {
  try {
    fs.writeSync(journal, JSON.stringify(change) + '\n')
    fs.fdatasyncSync(journal)
  } catch (error) { // what is on the disk is unknown now, until it is read anew: a restart knows
    console.error(`the journal cannot be written: ${error.message}`)
    process.exit(1)
  }
  apply(change)
  return change
}

// The same for a new change and for one that is read after a restart: so locks and prepared branches are there again (1).
function apply (change) {
  const key = `${change.gid}/${change.branch}`
  const { row, seats } = { ...branches.get(key), ...change }
  if (change.state === 'prepared') holders.set(row, key)
  else if (holders.get(row) === key) holders.delete(row)
  if (change.state === 'committed') booked.set(row, (booked.get(row) ?? 0) + seats)
  branches.set(key, { since: Date.now(), ...branches.get(key), ...change })
}

function openJournal (file) {
  const handle = fs.openSync(file, 'a+')
  const folder = fs.openSync(path.dirname(path.resolve(file)), 'r')
  fs.fsyncSync(folder) // or a power cut could take the new file with all that is in it
  fs.closeSync(folder)
  const content = fs.readFileSync(handle)
  const whole = content.lastIndexOf('\n') + 1
  fs.ftruncateSync(handle, whole) // a line that a crash cut short was never answered
  const lines = content.subarray(0, whole).toString().split('\n').filter(Boolean)
  for (const line of lines) apply(JSON.parse(line)) // a line that is damaged ends the process: half a truth is none
  return handle
}

// ── The branches ─────────────────────────────────────────────────────────────────────────────────────────────────────

class Refused extends Error { // a request that gets no vote
  constructor (status, why) { super(why); this.status = status }
}

const VERBS = {
  // 2: whatever comes again, or too late, hears how things are, and nothing is done.
  outcome: (known) => known,
  prepare: (known, key, form) => vote(known, key, form, () => ({ state: 'prepared' })),
  commit (known, key, form) {
    // In one phase, the vote and the commit are one line. The result is in it: to look again later would give another one.
    if (form.one_phase) {
      return vote(known, key, form, ({ row, seats }) => ({ state: 'committed', result: { left: left(row) - seats } }))
    }
    // Nothing can be in the way of a commit, because the vote looked, and the row was held since (1).
    return known.state === 'prepared' ? record({ ...key, state: 'committed' }) : known
  },
  // 3: an unknown branch leaves a line, its tombstone. A real service may forget it after a day or more.
  abort (known, key) {
    if (known.state !== 'prepared' && known.state !== 'unknown') return known
    return record({ ...key, state: 'aborted', reason: 'aborted by its coordinator' })
  },
  prevent (known, key) { // a yes is left alone
    if (known.state !== 'unknown') return known
    return record({ ...key, state: 'aborted', reason: 'prevented before it was prepared' })
  }
}

// What a branch is asked for binds it, and is voted on once. `yes` says what becomes of it then.
function vote (known, key, form, yes) {
  const digest = canonical([form.action ?? null, form.body ?? null])
  if (known.digest && known.digest !== digest) throw new Refused(409, 'the branch was asked for something else before')
  if (known.state !== 'unknown') return known
  const why = whyNot(form)
  if (why) return record({ ...key, state: 'aborted', digest, reason: why })
  return record({ ...key, digest, row: form.body.row, seats: form.body.seats, ...yes(form.body) })
}

// Why the vote is a no; undefined for a yes. Nothing is changed before the commit.
function whyNot ({ action, body }) {
  if (action !== 'book') return `${NAME} has no action ${JSON.stringify(action)}; it has book`
  if (Buffer.byteLength(JSON.stringify(body) ?? '') > BODY_BYTES_MAX) return `a body may have ${BODY_BYTES_MAX} bytes`
  const { row, seats } = body ?? {}
  if (typeof row !== 'string' || !/^[A-Z]{1,2}$/.test(row)) return 'a row, A to ZZ, is wanted'
  if (!Number.isInteger(seats) || seats < 1 || seats > 100) return '1 to 100 seats are wanted'
  // 4: a prepared branch holds its row. Whoever wants it could wait; to vote no is simpler, and `conflict: ` tells the
  // caller that trying again may help.
  if (holders.has(row)) return `conflict: row ${row} is held by another transaction`
  if (left(row) < seats) return `not enough seats in row ${row}: ${left(row)} left`
}

function left (row) {
  return Number(options.seats) - (booked.get(row) ?? 0)
}

// The same text for the same value, whoever wrote it: the keys of objects are in order.
function canonical (value) {
  const isObject = (each) => each !== null && typeof each === 'object' && !Array.isArray(each)
  return JSON.stringify(value, (_, each) => isObject(each) ? Object.fromEntries(Object.entries(each).sort()) : each)
}

function inDoubt () {
  return [...branches.values()].filter(({ state }) => state === 'prepared')
}

// ── HTTP: nothing but 200 with a state is ever taken for a vote ──────────────────────────────────────────────────────

const PAGES = {
  '/livez': () => 'ok',
  '/v1/capabilities': () => CAPABILITIES,
  '/v1/in-doubt': () => ({ branches: inDoubt().map(({ gid, branch }) => ({ gid, branch })) }),
  '/v1/rows': () => Object.fromEntries(booked)
}
const BRANCH = /^\/v1\/branches\/([^/]+)\/([^/]+)\/([a-z]+)$/
const NAME_OF_BRANCH = /^[A-Za-z0-9_.:-]{1,64}$/

async function answer (request) {
  if (request.method === 'GET' && request.url in PAGES) return PAGES[request.url]()
  const [, gid, branch, verb] = BRANCH.exec(request.url)?.map(decoded) ?? []
  const method = verb === 'outcome' ? 'GET' : 'POST'
  if (!Object.hasOwn(VERBS, verb ?? '') || request.method !== method) throw new Refused(404, 'there is no such path')
  if (!NAME_OF_BRANCH.test(gid) || !NAME_OF_BRANCH.test(branch)) {
    throw new Refused(400, 'gid and branch must be 1 to 64 of A-Z a-z 0-9 _ . : -')
  }
  const form = await readForm(request)
  const known = branches.get(`${gid}/${branch}`) ?? { state: 'unknown' }
  const { state, reason, result } = VERBS[verb](known, { gid, branch }, form)
  return { state, reason, result } // what is undefined is not written
}

function decoded (part) {
  try { return decodeURIComponent(part) } catch { return '' }
}

async function readForm (request) {
  const pieces = []
  let size = 0
  for await (const piece of request) { // to the end, also of one that is too large, or its sender never reads the answer
    size += piece.length
    if (size <= REQUEST_BYTES_MAX) pieces.push(piece)
  }
  if (size > REQUEST_BYTES_MAX) throw new Refused(413, `a request may have ${REQUEST_BYTES_MAX} bytes`)
  if (size === 0) return {}
  const type = (request.headers['content-type'] ?? '').split(';')[0].trim().toLowerCase()
  if (type !== 'application/json') throw new Refused(415, 'the content type must be application/json')
  let form
  try {
    form = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(pieces)))
    canonical(form) // what cannot be written again, because it is nested too deeply, is refused here
  } catch (error) {
    throw new Refused(400, `the body is not JSON that we can read: ${error.message}`)
  }
  const isObject = form !== null && typeof form === 'object' && !Array.isArray(form)
  const action = isObject ? form.action : null
  if (!isObject || (action !== undefined && (typeof action !== 'string' || !action || action.length > 64))) {
    throw new Refused(400, 'the body must be an object, and its action text of 1 to 64 characters')
  }
  if (typeof (form.one_phase ?? false) !== 'boolean') throw new Refused(400, 'one_phase must be true or false')
  return form
}

const server = http.createServer({ requestTimeout: REQUEST_TIMEOUT_MS }, async (request, response) => {
  let status = 200
  let content
  try {
    content = await answer(request)
  } catch (error) {
    status = error.status ?? 500 // a defect, or a sender that went away: no vote
    content = { status, detail: error.message }
  }
  response.writeHead(status, { 'Content-Type': 'application/json' })
  response.end(JSON.stringify(content))
})

// ── 5: a prepared branch decides nothing by itself. If its coordinator is silent for long, any replica is asked. ─────

async function askForAll () {
  for (const { gid, branch, since } of inDoubt()) {
    if (Date.now() - since < GRACE_MS) continue
    for (const replica of options.replica) {
      const verb = { committed: 'commit', aborted: 'abort' }[await ask(replica, gid, branch)]
      if (verb === undefined) continue // "deciding", or no answer: another one may know, or the same one later
      VERBS[verb](branches.get(`${gid}/${branch}`), { gid, branch }, {})
      break
    }
  }
  setTimeout(askForAll, ASK_EVERY_MS)
}

async function ask (replica, gid, branch) {
  try {
    const response = await fetch(`${replica}/v1/transactions/${gid}/outcome`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/json' },
      body: JSON.stringify({ participant: NAME, branch }),
      signal: AbortSignal.timeout(ASK_TIMEOUT_MS)
    })
    const said = await response.json()
    return response.ok && said.gid === gid ? said.outcome : undefined
  } catch { return undefined }
}

server.listen(Number(options.port), options.host)
askForAll()
