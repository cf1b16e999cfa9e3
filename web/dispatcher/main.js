import { takeToken } from "../shared/link.js";
import { readSettings } from "../shared/settings.js";
import { DispatcherPage } from "./page.js";

// Before anything is waited for: the token is not to stay in the address bar.
const token = takeToken();
new DispatcherPage(token, await readSettings()).start();
