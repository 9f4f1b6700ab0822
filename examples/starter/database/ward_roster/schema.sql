-- A hospital trust's ward roster: wards, staff, the shifts of two months, who works them, absences, certificates.

CREATE TABLE wards (
    ward_id INTEGER PRIMARY KEY,
    ward_name TEXT NOT NULL,
    site TEXT NOT NULL,
    specialty TEXT NOT NULL,
    bed_count INTEGER NOT NULL,
    staffed_bed_count INTEGER NOT NULL,
    min_night_staff INTEGER NOT NULL,
    min_day_staff INTEGER NOT NULL,
    opened_on TEXT NOT NULL,
    closed_on TEXT
);

CREATE TABLE staff (
    staff_id INTEGER PRIMARY KEY,
    full_name TEXT NOT NULL,
    job_title TEXT NOT NULL,
    home_ward_id INTEGER,
    manager_id INTEGER,
    contract_hours REAL NOT NULL,
    hourly_rate REAL NOT NULL,
    overtime_rate REAL,
    joined_on TEXT NOT NULL,
    left_on TEXT,
    FOREIGN KEY (home_ward_id) REFERENCES wards (ward_id),
    FOREIGN KEY (manager_id) REFERENCES staff (staff_id)
);

CREATE TABLE shifts (
    shift_id INTEGER PRIMARY KEY,
    ward_id INTEGER NOT NULL,
    shift_date TEXT NOT NULL,
    shift_type TEXT NOT NULL,
    planned_staff INTEGER NOT NULL,
    patients_at_start INTEGER,
    FOREIGN KEY (ward_id) REFERENCES wards (ward_id)
);

CREATE TABLE assignments (
    assignment_id INTEGER PRIMARY KEY,
    shift_id INTEGER NOT NULL,
    staff_id INTEGER NOT NULL,
    duty TEXT NOT NULL,
    hours_planned REAL NOT NULL,
    hours_worked REAL,
    is_overtime INTEGER NOT NULL,
    FOREIGN KEY (shift_id) REFERENCES shifts (shift_id),
    FOREIGN KEY (staff_id) REFERENCES staff (staff_id)
);

CREATE TABLE absences (
    absence_id INTEGER PRIMARY KEY,
    staff_id INTEGER NOT NULL,
    reason TEXT NOT NULL,
    reported_on TEXT NOT NULL,
    starts_on TEXT NOT NULL,
    ends_on TEXT,
    approved_by INTEGER,
    FOREIGN KEY (staff_id) REFERENCES staff (staff_id),
    FOREIGN KEY (approved_by) REFERENCES staff (staff_id)
);

CREATE TABLE certificates (
    certificate_id INTEGER PRIMARY KEY,
    staff_id INTEGER NOT NULL,
    certificate_name TEXT NOT NULL,
    issued_on TEXT NOT NULL,
    expires_on TEXT,
    score INTEGER,
    FOREIGN KEY (staff_id) REFERENCES staff (staff_id)
);
