#!/usr/bin/env python3
"""Snapshots with one bit flipped, and what a mount or snapctl makes of them.

	bit_flips.py enrich SNAPSHOT PROTO
	bit_flips.py make SNAPSHOT PROTO SNAPSHOTS PLAN SEED
	bit_flips.py read SNAPSHOT SNAPSHOTS PLAN MOUNT
	bit_flips.py verified SNAPSHOT SNAPSHOTS PLAN <JSON

enrich gives manifest.bin a value in every field that manifest.proto has, its own digest
made right. make copies the snapshot into the folder SNAPSHOTS once for each flip: in the
first, the last and a random block of each file, in each field of the manifest, and in
digests and sizes once more with the manifest's own digest made right; the PLAN says what
has to come of each. read compares every byte that the mount gives with the original's;
verified does so with what `snapctl verify --json` has said.
"""
import errno
import hashlib
import json
import mmap
import os
import random
import re
import shutil
import signal
import sys
import time

BLOCK = 4096
TRAILER = 35  # tag, length and value of manifest_digest
NUMBERS = ('uint32', 'uint64', 'int32', 'int64', 'bool')
BYTES = {'mac': 6, 'id': 16, 'parent_id': 16, 'vm_generation': 16}


# --- manifest.bin, as bytes ---

def read_schema(path):
	"""{message: {number: (name, type)}}"""
	text = re.sub(r'//.*', '', open(path).read())
	return {name: {int(number): (field, kind) for kind, field, number in
		       re.findall(r'(\w+) (\w+) = (\d+);', body)}
		for name, body in re.findall(r'message (\w+) \{(.*?)\n\}', text, re.S)}


def varint(buf, at):
	value = shift = 0
	while True:
		value |= (buf[at] & 0x7f) << shift
		shift += 7
		at += 1
		if buf[at - 1] < 0x80:
			return value, at


def to_varint(value):
	out = b''
	while value > 0x7f:
		out += bytes([value & 0x7f | 0x80])
		value >>= 7
	return out + bytes([value])


def encode(number, value):
	if isinstance(value, int):
		return to_varint(number << 3) + to_varint(value)
	return to_varint(number << 3 | 2) + to_varint(len(value)) + value


class Field:
	"""Where a field is in the file: tag, length (where it has one) and value."""
	def __init__(self, path, kind, tag, value, end):
		self.path, self.kind = path, kind
		self.tag, self.value, self.end = tag, value, end


def fields_of(schema, buf, message='SnapshotManifest', at=0, end=None, above=''):
	end = len(buf) if end is None else end
	while at < end:
		tag = at
		key, at = varint(buf, at)
		name, kind = schema[message][key >> 3]
		size, value = varint(buf, at)
		if key & 7 == 0:
			at, value = value, at
		else:
			at = value + size
		f = Field(above + name, kind, tag, value, at)
		yield f
		if kind in schema:
			yield from fields_of(schema, buf, kind, value, at, f.path + '.')


def all_paths(schema, message='SnapshotManifest', above=''):
	for name, kind in schema[message].values():
		yield above + name
		if kind in schema:
			yield from all_paths(schema, kind, above + name + '.')


def sample(schema, kind, name):
	if kind in schema:
		return b''.join(encode(number, sample(schema, k, n))
				for number, (n, k) in schema[kind].items() if n != 'layer')
	if kind == 'string':
		return b'sample'
	if kind == 'bytes':
		return bytes(range(1, BYTES.get(name, 32) + 1))
	return 1


def seal(body):
	return body + encode(2047, hashlib.sha256(body).digest())


def enrich(snapshot, proto):
	schema = read_schema(proto)
	path = os.path.join(snapshot, 'manifest.bin')
	old = open(path, 'rb').read()[:-TRAILER]
	top = [f for f in fields_of(schema, old) if '.' not in f.path]
	size = next(varint(old, f.value)[0] for f in top if f.path == 'memory_size_bytes')
	new = b''
	for number, (name, kind) in schema['SnapshotManifest'].items():
		there = [old[f.tag:f.end] for f in top if f.path == name]
		if name == 'ram':
			new += encode(number, encode(2, size // 2))
			new += encode(number, encode(1, 1 << 32) + encode(2, size // 2) +
				      encode(3, size // 2))
		elif name not in ('layer', 'manifest_digest'):
			# Another disk: an external one has what those that are kept have not.
			there += [encode(number, sample(schema, kind, name))] \
				if not there or name == 'disk' else []
		new += b''.join(there) if name not in ('ram', 'manifest_digest') else b''
	new = seal(new)
	layered = os.path.isdir(os.path.join(snapshot, 'layers'))
	lacks = set(all_paths(schema)) - {f.path for f in fields_of(schema, new)}
	lacks = {p for p in lacks if layered or not p.startswith('layer')}
	lacks = {p for p in lacks if not layered or not p.startswith('disk.layer')}
	if lacks:
		sys.exit('no value for ' + ', '.join(sorted(lacks)))
	os.remove(path)
	with open(path, 'wb') as f:
		f.write(new)


# --- the flips ---

def files_of(snapshot):
	found = []
	for folder, _, names in os.walk(snapshot):
		found += [os.path.relpath(os.path.join(folder, n), snapshot) for n in names]
	return sorted(n for n in found if n != 'working-set')


class Maker:
	def __init__(self, snapshot, proto, snapshots, seed):
		self.snapshot, self.snapshots = snapshot, snapshots
		self.schema = read_schema(proto)
		self.random = random.Random(seed)
		self.manifest = open(os.path.join(snapshot, 'manifest.bin'), 'rb').read()
		self.plan = []

	def add(self, what, changed, content, expect, own=None, **more):
		"""A copy in which the file `changed` has this content, and `own` is not shared."""
		name = 'flip%04d' % len(self.plan)
		to = os.path.join(self.snapshots, name)
		# Links, for what the flip has nothing to do with.
		shutil.copytree(self.snapshot, to, copy_function=os.link)
		path = os.path.join(to, changed)
		os.remove(path)
		with open(path, 'wb') as f:
			f.write(content)
		if own and os.path.isfile(os.path.join(to, own)):
			os.remove(os.path.join(to, own))
			shutil.copyfile(os.path.join(self.snapshot, own), os.path.join(to, own))
		self.plan.append({'name': name, 'what': what, 'file': changed, 'expect': expect,
				  **more})

	def flipped(self, content, at):
		bit = self.random.randrange(8)
		return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1:]

	def blocks(self, path):
		content = open(os.path.join(self.snapshot, path), 'rb').read()
		n = (len(content) + BLOCK - 1) // BLOCK
		some = {0, n - 1, self.random.randrange(n)} if n else set()
		for block in sorted(some):
			size = min(BLOCK, len(content) - block * BLOCK)
			at = block * BLOCK + self.random.randrange(size)
			large = path.endswith('.ram') or path.startswith('disks/')
			expect = 'tree' if path.endswith('.tree') else \
				'block' if large or path == 'memory.bin' else 'file'
			# What another one's tree has proved would need this one's no more.
			data = path[:-len('.tree')] if expect == 'tree' else None
			if data and not path.startswith('disks/'):
				data += '.ram' if path.startswith('layers/') else '.bin'
			self.add('%s, byte %d' % (path, at), path, self.flipped(content, at),
				 expect, block=block, own=data)

	def offsets(self, f):
		"""In the tag, the length, and the value."""
		inner = self.random.randrange(f.value, f.end) if f.end > f.value else f.tag
		return sorted({f.tag, max(f.value - 1, f.tag), min(f.value, f.end - 1), inner,
			       f.end - 1})

	def file_of(self, f, disk_files):
		"""The file that a digest or size in the manifest is of, or None."""
		if f.path in ('memory_digest', 'memory_size_bytes'):
			return 'memory.bin'
		if f.path in ('state_digest', 'state_size'):
			return 'state.bin'
		if f.path in ('disk.layer.size', 'disk.layer.digest'):
			return 'disks/' + disk_files[-1]
		if f.path.startswith('layer.'):
			return 'layers/'
		return None

	def fields(self):
		disk_files = []
		body = self.manifest[:-TRAILER]
		for f in fields_of(self.schema, self.manifest):
			if f.path == 'disk.layer.file':
				disk_files.append(self.manifest[f.value:f.end].decode())
			for at in self.offsets(f):
				self.add('manifest.bin, %s, byte %d' % (f.path, at), 'manifest.bin',
					 self.flipped(self.manifest, at), 'manifest')
			last = f.path.split('.')[-1]
			if f.kind in self.schema or f.path == 'manifest_digest' or \
			   not re.search('digest|sha256|size', last) or last == 'page_size':
				continue
			# In the middle of a number: not in the bits that say where it ends.
			at = self.random.randrange(f.value, f.end)
			bit = 1 << self.random.randrange(7)
			new = body[:at] + bytes([body[at] ^ bit]) + body[at + 1:]
			of = self.file_of(f, disk_files)
			self.add('manifest.bin made right, %s, byte %d' % (f.path, at),
				 'manifest.bin', seal(new), 'forged', own=of, of=of)


def make(snapshot, proto, snapshots, plan, seed):
	m = Maker(snapshot, proto, snapshots, seed)
	for path in files_of(snapshot):
		m.blocks(path)
	m.fields()
	with open(plan, 'w') as f:
		json.dump(m.plan, f)


# --- through the mount ---

class Wrong(Exception):
	pass


def read_mapped(fd, path, want, block):
	"""A mapping of the file has all but this block, which kills who touches it."""
	def in_child(look):
		pid = os.fork()
		if pid == 0:
			signal.signal(signal.SIGBUS, signal.SIG_DFL)
			os._exit(0 if look() else 1)
		return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

	held = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
	at = block * BLOCK
	others = in_child(lambda: held[:at] == want[:at] and
			  held[at + BLOCK:] == want[at + BLOCK:])
	this = in_child(lambda: held[at:at + BLOCK] == want[at:at + BLOCK])
	held.close()
	if others != 0 or this != -signal.SIGBUS:
		raise Wrong('%s, mapped: the block is %d, the others are %d' % (path, this, others))


def read_blocks(path, want, block=None):
	"""
	The blocks that are EIO, None: the open was. All other bytes are right, also in a
	mapping, where `block` is the one that has to be wrong.
	"""
	bad = []
	try:
		fd = os.open(path, os.O_RDONLY)
	except OSError as e:
		if e.errno not in (errno.EIO, errno.ENOENT):
			raise
		return None
	try:
		if os.fstat(fd).st_size != len(want):
			raise Wrong('%s has another size' % path)
		for at in range(0, len(want), BLOCK):
			try:
				if os.pread(fd, BLOCK, at) != want[at:at + BLOCK]:
					raise Wrong('%s: wrong bytes in block %d' % (path, at // BLOCK))
			except OSError as e:
				if e.errno != errno.EIO:
					raise
				bad.append(at // BLOCK)
		# By the same open: the next one may know more.
		if bad == [block]:
			read_mapped(fd, path, want, block)
	finally:
		os.close(fd)
	return bad


def read_all(path, want):
	"""In large reads, as far as they go."""
	got = b''
	try:
		with open(path, 'rb', buffering=0) as f:
			while True:
				part = f.read(1 << 17)
				if not part:
					break
				got += part
	except OSError as e:
		if e.errno not in (errno.EIO, errno.ENOENT):
			raise
	if got != want[:len(got)]:
		raise Wrong('%s: wrong bytes in a large read' % path)
	return len(got) == len(want)


def state_of(mount, name):
	lines = open(os.path.join(mount, name, 'status')).read()
	state = re.search(r'^state: *(\w+)', lines, re.M)
	return state.group(1), lines


def check_status(v, mount, broken):
	"""It names the file that is damaged, or says valid once all has been looked at."""
	for _ in range(500):
		lines = open(os.path.join(mount, v['name'], 'status')).read()
		state = re.search(r'^state: *(\w+)', lines, re.M).group(1)
		if broken:
			problem = re.search(r'^problem: (.*)', lines, re.M)
			if state == 'damaged' and problem and broken in problem.group(1):
				return
			break
		if state != 'unverified':
			break
		time.sleep(0.02)
	if broken or state != 'valid':
		raise Wrong('its status: ' + lines)


def check_one(v, good, mount):
	at = os.path.join(mount, v['name'])
	got = {path: read_blocks(os.path.join(at, path), good[path],
				 v.get('block') if path == v['file'] else None) for path in good}
	broken = [path for path in got if got[path] != []]
	wrong = v['of'] if v['expect'] == 'forged' else v['file'] if v['expect'] != 'tree' else None
	if v['expect'] == 'manifest' or got['manifest.bin'] is None:
		wrong = 'manifest.bin'
		if any(blocks is not None for blocks in got.values()):
			raise Wrong('served by a damaged manifest: %s' % got)
	elif broken != ([wrong] if wrong else []):
		raise Wrong('not %s but %s are refused' % (wrong, broken))
	elif wrong and got[wrong] != ([v['block']] if v['expect'] == 'block' else None):
		raise Wrong('%s is refused in %s' % (wrong, got[wrong]))
	for path in good:
		if read_all(os.path.join(at, path), good[path]) and path in broken:
			raise Wrong('%s is whole in a large read' % path)
	check_status(v, mount, wrong)


def content_of(snapshot):
	return {path: open(os.path.join(snapshot, path), 'rb').read() for path in files_of(snapshot)
		if not path.endswith('.tree')}


def check_plan(plan, check):
	bad = 0
	for v in plan:
		try:
			check(v)
		except (Wrong, OSError) as e:
			bad += 1
			print('%s (%s): %s' % (v['name'], v['what'], e), file=sys.stderr)
	print('%d flips' % len(plan))
	return bad > 0


def read(snapshot, snapshots, plan, mount):
	good = content_of(snapshot)
	def check(v):
		of = dict(good)
		if v['expect'] == 'forged':
			# One that is right, if of another snapshot.
			of['manifest.bin'] = content_of(os.path.join(snapshots, v['name']))['manifest.bin']
		check_one(v, of, mount)
	return check_plan(json.load(open(plan)), check)


# --- by snapctl verify ---

def verified(snapshot, snapshots, plan):
	said = [json.loads(line) for line in sys.stdin]
	said = {line['name']: line for line in said if 'name' in line}

	def check(v):
		line = said.get(v['name'])
		problem = (line or {}).get('problem') or ''
		words = v['file']
		if v['expect'] == 'forged':
			words = {'memory.bin': 'memory|RAM|manifest.bin', 'layers/': 'layers|manifest.bin',
				 None: ''}.get(v['of'], v['of'])
		if not line or v['expect'] == 'tree' or (v['expect'] == 'forged' and not v['of']):
			if not line or line['status'] != 'valid':
				raise Wrong('it is said to be %s' % line)
		elif line['status'] != 'damaged' or not re.search(words, problem):
			raise Wrong('it is said to be %s' % line)
		elif v['expect'] == 'block' and 'block %d ' % v['block'] not in problem:
			raise Wrong('another block: %s' % line)
		if v['expect'] == 'tree' and open(os.path.join(snapshots, v['name'], v['file']), 'rb') \
		   .read() != open(os.path.join(snapshot, v['file']), 'rb').read():
			raise Wrong('the tree was not made anew')
	return check_plan(json.load(open(plan)), check)


if __name__ == '__main__':
	sys.exit({'enrich': enrich, 'make': make, 'read': read, 'verified': verified}
		 [sys.argv[1]](*sys.argv[2:]))
