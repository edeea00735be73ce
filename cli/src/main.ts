#!/usr/bin/env node
import { enableCompileCache } from 'node:module';
import { compileCacheFolder } from '@shoal/core/compile-cache';

// Before anything else is loaded: what is loaded first is not found in the cache.
const folder = compileCacheFolder();
if (folder !== undefined) enableCompileCache(folder);

await import('./program.ts');
