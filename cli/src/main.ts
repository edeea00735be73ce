#!/usr/bin/env node
import { enableCompileCache } from 'node:module';
import { homedir } from 'node:os';
import { join } from 'node:path';

// Before anything else is loaded, and so without a look at the folder others take it from (compileCacheFolder).
const cache = process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache');
enableCompileCache(process.env['NODE_COMPILE_CACHE'] ?? join(cache, 'shoal', 'compiled'));

await import('./program.ts');
