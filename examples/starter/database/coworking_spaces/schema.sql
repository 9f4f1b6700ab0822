-- An operator of co-working spaces: sites, the companies and members working there, their plans and room bookings.
CREATE TABLE sites (
    site_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    city TEXT NOT NULL,
    country TEXT NOT NULL,
    opened_on DATE NOT NULL,
    closed_on DATE,
    fixed_desks INTEGER NOT NULL,
    flexible_desks INTEGER NOT NULL,
    monthly_rent REAL NOT NULL
);

CREATE TABLE companies (
    company_id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    industry TEXT,
    staff_count INTEGER NOT NULL,
    founded_year INTEGER NOT NULL
);

CREATE TABLE members (
    member_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    email TEXT,
    company_id INTEGER,
    home_site_id INTEGER NOT NULL,
    joined_on DATE NOT NULL,
    left_on DATE,
    invited_by INTEGER,
    FOREIGN KEY (company_id) REFERENCES companies (company_id),
    FOREIGN KEY (home_site_id) REFERENCES sites (site_id),
    FOREIGN KEY (invited_by) REFERENCES members (member_id)
);

CREATE TABLE plans (
    plan_id INTEGER PRIMARY KEY,
    site_id INTEGER NOT NULL,
    tier TEXT NOT NULL,
    list_price REAL NOT NULL,
    sale_price REAL,
    included_hours INTEGER NOT NULL,
    notice_days INTEGER NOT NULL,
    FOREIGN KEY (site_id) REFERENCES sites (site_id)
);

CREATE TABLE subscriptions (
    subscription_id INTEGER PRIMARY KEY,
    member_id INTEGER NOT NULL,
    plan_id INTEGER NOT NULL,
    started_on DATE NOT NULL,
    ended_on DATE,
    discount_percent INTEGER NOT NULL,
    FOREIGN KEY (member_id) REFERENCES members (member_id),
    FOREIGN KEY (plan_id) REFERENCES plans (plan_id)
);

CREATE TABLE meeting_rooms (
    meeting_room_id INTEGER PRIMARY KEY,
    site_id INTEGER NOT NULL,
    label TEXT NOT NULL,
    seats INTEGER NOT NULL,
    hourly_rate REAL NOT NULL,
    screen_inches INTEGER,
    FOREIGN KEY (site_id) REFERENCES sites (site_id)
);

CREATE TABLE bookings (
    booking_id INTEGER PRIMARY KEY,
    meeting_room_id INTEGER NOT NULL,
    member_id INTEGER NOT NULL,
    booked_on DATE NOT NULL,
    used_on DATE NOT NULL,
    cancelled_on DATE,
    hours REAL NOT NULL,
    catering_cost REAL,
    FOREIGN KEY (meeting_room_id) REFERENCES meeting_rooms (meeting_room_id),
    FOREIGN KEY (member_id) REFERENCES members (member_id)
);
